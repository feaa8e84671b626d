"""The JSON API for this instance's own people and scripts: one module a subject, each call an `Operation`."""

from app.web.api.operation import Api

#: The one list of calls: routes, checks and the OpenAPI document come from it.
api = Api("api", "/api/v1/federation")
