"""Bytes under keys, on disk or in an S3 bucket.

image_store    what every store promises, and which one STORAGE_URL names
folder_store   files in a folder; local_file reads them without following links
bucket_store   objects in a bucket
stored_object  what both give out, and one error for all that they refuse
storage_keys   what the files are called
"""
