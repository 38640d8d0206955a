"""What schemathesis takes for a fault although it is none; `schemathesis.toml` names this module.

DELETE of a request that is not finished cancels it, which its 202 says: the request can still be
seen and retried. That one whose deletion was answered by `deleted` is gone stays a check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import schemathesis
from schemathesis.openapi.checks import UseAfterFree

if TYPE_CHECKING:
    from schemathesis import Case, HookContext, Response
    from schemathesis.core.failures import Failure

_deleted: set[str] = set()  # requests


@schemathesis.hook
def after_call(context: HookContext, case: Case[Any], response: Response) -> None:
    """Remember what was deleted, not only cancelled."""
    if case.method == "DELETE" and response.status_code == 202:
        answer = response.json()
        if answer["status"] == "deleted":
            _deleted.add(answer["request_id"])


@schemathesis.hook
def filter_failure(
    context: HookContext, failure: Failure, case: Case[Any], response: Response
) -> bool:
    """Tell whether a failure counts."""
    return not isinstance(failure, UseAfterFree) or case.path_parameters["request_id"] in _deleted
