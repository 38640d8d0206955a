"""Bytes of an image in, fewer bytes of the same picture out. Pure; runs in a decoder process.

Light, for the service too:
compressed_image   what is taken and what comes out
image_format       which kinds of image there are, and which of them these bytes are
codec_version      which compressor this is

The decisions:
image_compressor   format, quality, size, or the original
encoding           one way to encode, at any quality
size_ceiling       what is given up to get under a ceiling of bytes; size_search finds how far
quality_predictor  what `auto` takes, by quality_model's formulas
format_hint        what another format would have saved

In:
image_metadata     completeness, and removing metadata losslessly; container_* are its formats
container_tiff     what is checked of a TIFF beside Pillow; jpeg_scans does so for a JPEG's pixels
image_loader       decoding, upright, in sRGB, of the size asked for; gif_canvas draws GIFs
picture            what it makes of them: frames
image_colour       what pixels mean; colour_profile finds what an image says of its colours

Out:
image_encoder      each format's settings; jpeg_encoder and gif_encoder do what Pillow can't
png_palette        a PNG in few colours where that looks right; colour_quantiser chooses them

The eye:
ssimulacra2        the metric, with ssimulacra2_blur and ssimulacra2_colour
likeness           whether a lossy encoding looks right, and what `auto` aims at
tile_judge         a quick look at some tiles
"""
