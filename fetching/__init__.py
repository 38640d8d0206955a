"""URL to bytes, under limits. What may be reached is for address_policy to say.

image_downloader   one attempt at one image, redirects and all
source_session     how origins are asked, over kept connections
source_connection  connections to the very address that was approved, and the clock
source_answer      an answer's head and framing; source_response what its headers mean
byte_budget        how many bytes may be in memory
"""
