"""The compressor in processes apart, whose bytes strangers write.

decoder_pool       a fixed number of them for many threads; what they answer is checked
decoder_handle     one of them: start, ask, kill
decoder_protocol   the frames between both sides
decoder_process    the program itself
decoder_cage       what it gives up; decoder_syscalls are what it is left with
"""
