"""What the document says of calls that other modules answer."""

from app.web.api import api
from app.web.api.operation import Operation

#: The public document; `web.peer` serves it under both of its addresses.
api.operations.append(
    Operation(
        method="GET",
        rule="/api/v1/federation/instance",
        name="show_instance",
        summary="Show this instance's signed document.",
        description="Public: what peers read before they connect. Times in it are Unix milliseconds.",
        tag="Instance",
        answers={200: dict},
    )
)
