"""HTTP for strangers: connections, their limits, and what they may say; not what it means.

http_server        takes connections, each with a thread
connection_places  how many there may be, and who gives way
http_connection    one of them: a handler of the standard library's server
http_protocol      requests and responses as bytes (pure)
http_transfer      bytes over a socket, under deadlines
"""
