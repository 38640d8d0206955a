-- Failures are listed by their reason.
create index images_failed_by_code on images (request_id, error_code, n) where state = 'failed';
