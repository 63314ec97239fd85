"""The OpenAPI document against the specification."""

from openapi_spec_validator import OpenAPIV31SpecValidator

from checks import api, check, equal, main


@check
def valid():
    """openapi-spec-validator: /openapi.json is a valid OpenAPI 3.1 document"""
    document = api("/openapi.json")
    equal(document["openapi"].rsplit(".", 1)[0], "3.1")
    faults = list(OpenAPIV31SpecValidator(document).iter_errors())
    assert not faults, faults[:5]
    assert {"/v1/jobs", "/v1/images/edits", "/sdapi/v1/txt2img"} <= set(document["paths"])


main()
