"""Bytes of an image in, fewer bytes of the same picture out. Pure; runs in a decoder process.

image_compressor   the decisions: format, quality, size, or the original
image_format       which kind of image these bytes are
image_metadata     completeness, and removing metadata losslessly; container_* are its formats
image_loader       decoding, upright, in sRGB (image_colour), of the size asked for
image_encoder      each format's settings
"""
