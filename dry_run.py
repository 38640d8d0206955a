"""What a dry run finds: how much a CSV holds, and which of its URLs fail as they stand.

Nothing is fetched and no name is looked up: what only the network can tell shows in the real run.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from csv_problems import CsvProblems
from errors import ImageError

if TYPE_CHECKING:
    from address_policy import AddressPolicy
    from csv_validator import ProductReader


def dry_run(products: ProductReader, policy: AddressPolicy) -> dict[str, Any]:
    """Return what the client hears. Raises CsvRefusedError like the real run.

    `warnings` has the shape of a refusal's `errors`, for URLs that would be no more than their
    image's failure.
    """
    rows = images = 0
    warnings = CsvProblems()
    for rows, product in enumerate(products, 1):  # noqa: B007  # the last one is the count
        images += len(product.image_urls)
        for url in product.image_urls:
            try:
                policy.check_url(url)
            except ImageError as error:
                warnings.add_url(product.line, products.url_column, url, error)
    return {
        "dry_run": True,
        "products": rows,
        "images": images,
        "warnings": [asdict(warning) for warning in warnings.listed],
        "warnings_total": warnings.total,
    }
