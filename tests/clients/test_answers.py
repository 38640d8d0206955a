"""What the service answers against `openapi.json`: as described, and with nothing undescribed."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from openapi_schema_validator import OAS31Validator

from api_description import DESCRIPTION
from tests.images import photo, saved
from tests.service import CSV_HEADER, Service, csv_of

if TYPE_CHECKING:
    from tests.origin import Origin

SECRET = f"whsec_{base64.b64encode(bytes(32)).decode()}"
# These stand in others by `allOf`, so they can't be closed each for itself.
OPEN = {"Problem", "UploadProblem"}


def closed_components() -> dict[str, Any]:
    """Return the document's components, whose objects take no member that is not described."""
    components: dict[str, Any] = json.loads(DESCRIPTION.read_bytes())["components"]
    for name, schema in components["schemas"].items():
        if name not in OPEN and "properties" in schema:
            schema["additionalProperties"] = False
    return components


COMPONENTS = closed_components()


def check(name: str, document: Any) -> None:
    """Hold a document to a schema."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": COMPONENTS}
    OAS31Validator(schema, format_checker=OAS31Validator.FORMAT_CHECKER).validate(document)


@pytest.fixture(scope="module")
def service_settings() -> dict[str, str]:
    """Have the service send webhooks."""
    return {"WEBHOOK_SECRET": SECRET}


@pytest.fixture(scope="module")
def finished(service: Service, module_origin: Origin) -> str:
    """Give the id of a request with a good and a bad image, whose webhook has arrived."""
    good = module_origin.serve("/good.jpg", saved(photo(), "JPEG", quality=95))
    hook = module_origin.serve("/hook")
    answer = service.upload(csv_of(f"{good},{module_origin.url('/gone')}"), {"webhook_url": hook})
    check("Accepted", answer.json())
    request_id = str(answer.json()["request_id"])
    service.finish(request_id)
    service.wait_until(lambda: service.get(f"/status/{request_id}").json()["webhook"]["deliveries"])
    return request_id


def test_reading(service: Service, module_origin: Origin, finished: str) -> None:
    """A status with a webhook's delivery, images that succeeded and failed, pages, the event."""
    status = service.get(f"/status/{finished}").json()
    check("Status", status)
    assert status["errors_by_code"]
    assert status["webhook"]["deliveries"]
    images = service.get(f"/status/{finished}/images").json()
    check("ImagePage", images)
    assert [bool(image["error"]) for image in images["images"]] == [False, True]
    page = service.get(f"/status/{finished}/images", params={"limit": "1"}).json()
    check("ImagePage", page)
    assert page["next_cursor"]
    check("RequestPage", service.get("/requests").json())
    (event,) = (each for each in module_origin.requests if each.path == "/hook")
    check("Event", json.loads(event.body))


def test_trying(service: Service) -> None:
    """A dry run with a warning, and a refusal with errors."""
    dry = service.upload(csv_of("ftp://shop.example/a.jpg"), {"dry_run": "true"}).json()
    check("DryRunResult", dry)
    assert dry["warnings"]
    refused = service.upload(f"{CSV_HEADER}\r\none,Vase,\r\n").json()
    check("UploadProblem", refused)
    assert refused["errors_total"] == 2


def test_changing(service: Service) -> None:
    """A retry, then a deletion."""
    request_id = service.run(csv_of("ftp://shop.example/a.jpg"))["request_id"]
    check("Retried", service.request("POST", f"/status/{request_id}/retry").json())
    service.finish(request_id)
    deleted = service.request("DELETE", f"/status/{request_id}").json()
    check("Deleted", deleted)
    assert deleted["status"] == "deleted"
