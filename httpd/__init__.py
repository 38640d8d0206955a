"""HTTP for strangers: connections, their limits, and what they may say; not what it means.

http_server         takes connections
connection_places   how many there may be, and who gives way
connection_threads  which thread answers whom
http_connection     one of them: a handler of the standard library's server
http_protocol       requests and responses as bytes (pure)
http_transfer       bytes over a socket, under deadlines
"""
