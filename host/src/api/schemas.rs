//! What each route takes and gives, for the OpenAPI document. Requests come from the tables that check them.

use super::{
    dialect_of,
    dialects::{
        openai_fields,
        sdapi_fields::{self, On},
    },
    fields::{JOB_FIELDS, Kind, properties},
    routes::{Dialect, Route},
};
use crate::fault::FaultCode;
use serde_json::{Map, Value, json};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

fn schema(name: &str) -> Value {
    reference("schemas", name)
}

/// The body of a route's requests, if it takes one.
pub(crate) fn request_body(route: &Route) -> Option<Value> {
    if route.method != http::Method::POST {
        return None;
    }
    let json = |schema: Value| Some(json!({ "required": true, "content": { JSON: { "schema": schema } } }));
    let both = |name: &str, form: &str| {
        let content = json!({ JSON: { "schema": schema(name) }, "multipart/form-data": { "schema": schema(form) } });
        Some(json!({ "required": true, "content": content }))
    };
    match route.pattern {
        "/v1/jobs" | "/v1/inference" => json(schema("JobRequest")),
        "/v1/images/generations" => json(schema("ImagesRequest")),
        "/v1/images/edits" => both("EditsRequest", "EditsForm"),
        "/v1/images/variations" => both("VariationsRequest", "VariationsForm"),
        "/sdapi/v1/txt2img" => json(schema("Txt2ImgRequest")),
        "/sdapi/v1/img2img" => json(schema("Img2ImgRequest")),
        "/v1/png-info" | "/sdapi/v1/png-info" => json(object(&[("image", picture())], &["image"])),
        "/sdapi/v1/extra-single-image" => json(extras(&[("image", picture())], &["image"])),
        "/sdapi/v1/extra-batch-images" => {
            let entry = object(&[("data", picture()), ("name", json!({ "type": "string" }))], &["data"]);
            let list = json!({ "type": "array", "items": entry, "minItems": 1, "maxItems": 16 });
            json(extras(&[("imageList", list)], &["imageList"]))
        }
        "/sdapi/v1/options" => json(json!({ "type": "object", "additionalProperties": true })),
        "/internal/progress" => json(object(
            &[
                ("id_task", json!({ "type": "string" })),
                ("id_live_preview", json!({ "type": "integer", "default": -1 })),
                ("live_preview", json!({ "type": "boolean", "default": true })),
            ],
            &["id_task"],
        )),
        _ => None,
    }
}

/// What a route reads from its path, its query and its headers.
pub(crate) fn parameters(route: &Route, path: &str) -> Vec<Value> {
    let mut all: Vec<Value> = path
        .split('/')
        .filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }))
        .collect();
    let mut optional = |place: &str, name: &str, schema: Value, what: &str| {
        all.push(json!({ "name": name, "in": place, "required": false, "schema": schema, "description": what }));
    };
    match (route.method.as_str(), route.pattern) {
        ("GET", "/v1/jobs") => {
            let states = json!({ "type": "string", "enum": ["queued", "running", "completed", "failed", "cancelled"] });
            optional("query", "status", states, "Only jobs in this state.");
            optional("query", "limit", json!({ "type": "integer", "minimum": 1, "maximum": 100 }), "Jobs on the page.");
            optional("query", "after", json!({ "type": "string" }), "The `next` of the page before.");
        }
        (
            "POST",
            "/v1/jobs" | "/v1/inference" | "/v1/images/generations" | "/v1/images/edits" | "/v1/images/variations",
        ) => {
            let key = json!({ "type": "string", "minLength": 1, "maxLength": 256 });
            optional(
                "header",
                "Idempotency-Key",
                key,
                "The same request with the same key gives the same job again; another request with it is refused with 422.",
            );
        }
        (_, "/v1/jobs/{}/stream" | "/v1/inference/{}/stream") => {
            let what = "The number of the last event that was seen; the stream goes on behind it.";
            optional("header", "Last-Event-ID", json!({ "type": "string" }), what);
            optional("query", "last_event_id", json!({ "type": "string" }), what);
        }
        (_, "/sdapi/v1/progress") => {
            optional(
                "query",
                "skip_current_image",
                json!({ "type": "boolean", "default": false }),
                "Leaves out the preview.",
            );
        }
        _ => {}
    }
    all
}

/// The answers of a route.
pub(crate) fn responses(route: &Route) -> Value {
    let content = |media: &str, schema: Value| json!({ media: { "schema": schema } });
    let text = || json!({ "type": "string" });
    let fine = match (route.method.as_str(), route.pattern) {
        (_, "/" | "/docs") => content("text/html", text()),
        (_, "/metrics") => content("text/plain", text()),
        (_, "/v1/jobs/{}/stream" | "/v1/inference/{}/stream") => json!({ EVENTS: {} }),
        (_, "/v1/jobs/{}/images/{}") => json!({ "image/png": {}, "image/jpeg": {}, "image/webp": {} }),
        (_, "/v1/images/generations" | "/v1/images/edits" | "/v1/images/variations") => {
            json!({ JSON: { "schema": schema("ImagesResponse") }, EVENTS: {} })
        }
        ("POST", "/v1/jobs" | "/v1/inference") => content(JSON, schema("Accepted")),
        ("GET", "/v1/jobs/{}") => content(JSON, schema("Job")),
        ("GET", "/v1/jobs") => content(JSON, list(schema("JobSummary"))),
        ("GET", "/v1/models") => content(JSON, list(schema("Model"))),
        ("GET", "/v1/models/{}") => content(JSON, schema("Model")),
        ("GET", "/v1/backends") => content(JSON, object(&[], &["object", "data", "serving"])),
        (_, "/v1/backends/reload") => content(JSON, list(change())),
        (_, "/sdapi/v1/txt2img" | "/sdapi/v1/img2img") => content(JSON, schema("SdapiResponse")),
        ("POST", "/sdapi/v1/options") | (_, "/sdapi/v1/refresh-checkpoints") => {
            content(JSON, json!({ "type": "null" }))
        }
        (
            "GET",
            "/sdapi/v1/sd-models"
            | "/sdapi/v1/samplers"
            | "/sdapi/v1/schedulers"
            | "/sdapi/v1/upscalers"
            | "/sdapi/v1/latent-upscale-modes"
            | "/sdapi/v1/loras"
            | "/sdapi/v1/hypernetworks"
            | "/sdapi/v1/face-restorers"
            | "/sdapi/v1/prompt-styles"
            | "/sdapi/v1/sd-vae"
            | "/sdapi/v1/sd-modules"
            | "/sdapi/v1/realesrgan-models"
            | "/sdapi/v1/extensions"
            | "/sdapi/v1/script-info",
        ) => content(JSON, json!({ "type": "array" })),
        _ => content(JSON, json!({ "type": "object" })),
    };
    let fault = match dialect_of(&route.pattern.replace("{}", "x")) {
        Dialect::Native => "Fault",
        Dialect::OpenAi => "OpenAiFault",
        Dialect::Sdapi => "SdapiFault",
    };
    let mut all = json!({
        "200": { "description": "Done.", "content": fine },
        "4XX": reference("responses", fault),
        "5XX": reference("responses", fault),
    });
    if route.pattern == "/v1/jobs/{}/images/{}" {
        all["304"] = json!({ "description": "The client has this picture already." });
    }
    if route.pattern.ends_with("/ready") {
        // What stands in the way is told in the same shape as that nothing does.
        all["503"] = json!({ "description": "Not ready.", "content": { JSON: { "schema": { "type": "object" } } } });
    }
    all
}

/// The schemas that routes refer to.
pub(crate) fn components() -> Value {
    let fault =
        |name: &str| json!({ "description": "Refused or failed.", "content": { JSON: { "schema": schema(name) } } });
    json!({
        "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" }, "basic": { "type": "http", "scheme": "basic" } },
        "schemas": {
            "JobRequest": {
                "type": "object", "properties": properties(JOB_FIELDS), "additionalProperties": false,
                // What is only enlarged needs no prompt.
                "anyOf": [{ "required": ["prompt"] }, { "required": ["operation", "init_image"] }],
            },
            "ImagesRequest": openai(&["prompt"], &[("image", json!({})), ("mask", json!({}))]),
            "EditsRequest": openai(&["prompt"], &[("image", pictures()), ("images", pictures()), ("mask", pictures())]),
            "EditsForm": openai(&["prompt", "image"], &[("image", file()), ("mask", file())]),
            "VariationsRequest": openai(&["image"], &[("image", pictures())]),
            "VariationsForm": openai(&["image"], &[("image", file())]),
            "Txt2ImgRequest": sdapi_fields::schema(On::Txt2Img),
            "Img2ImgRequest": sdapi_fields::schema(On::Img2Img),
            "Accepted": accepted(),
            "JobSummary": object(&summary(), &["job_id", "status", "operation", "model", "seed", "n", "created", "progress"]),
            "Job": object(&summary(), &["job_id", "status", "width", "height", "steps", "sampler", "schedule", "seeds", "images", "timings"]),
            "Model": object(
                &[("id", json!({ "type": "string" })), ("object", json!({ "const": "model" })), ("created", json!({ "type": "integer" }))],
                &["id", "object", "created", "owned_by", "complete", "default", "loaded"],
            ),
            "ImagesResponse": object(
                &[("created", json!({ "type": "integer" })), ("data", json!({ "type": "array", "items": { "type": "object" } }))],
                &["created", "data", "size", "output_format"],
            ),
            "SdapiResponse": object(
                &[
                    ("images", json!({ "type": "array", "items": { "type": "string" } })),
                    ("parameters", json!({ "type": "object" })),
                    ("info", json!({ "type": "string", "description": "JSON as text." })),
                ],
                &["images", "parameters", "info"],
            ),
            "Error": error(),
            "OpenAiError": object(&[("error", object(
                &[("message", json!({ "type": "string" })), ("type", json!({ "type": "string" })),
                  ("param", json!({ "type": ["string", "null"] })), ("code", json!({ "type": "string" }))],
                &["message", "type", "param", "code"],
            ))], &["error"]),
            "SdapiError": object(
                &[("error", json!({ "type": "string" })), ("detail", json!({ "type": "string" })), ("body", json!({ "type": "string" })), ("errors", json!({ "type": "string" }))],
                &["error", "detail", "body", "errors"],
            ),
        },
        "responses": { "Fault": fault("Error"), "OpenAiFault": fault("OpenAiError"), "SdapiFault": fault("SdapiError") },
    })
}

fn object(properties: &[(&str, Value)], required: &[&str]) -> Value {
    let properties: Map<String, Value> = properties.iter().map(|(n, s)| ((*n).to_owned(), s.clone())).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn list(of: Value) -> Value {
    object(
        &[("object", json!({ "const": "list" })), ("data", json!({ "type": "array", "items": of }))],
        &["object", "data"],
    )
}

fn picture() -> Value {
    Kind::Image.schema()
}

fn file() -> Value {
    json!({ "type": "string", "format": "binary" })
}

/// OpenAI's JSON forms of a picture.
fn pictures() -> Value {
    let link = object(&[("image_url", json!({ "type": "string", "description": "A data URL." }))], &["image_url"]);
    json!({ "anyOf": [picture(), link, { "type": "array", "items": { "anyOf": [picture(), link] } }] })
}

/// OpenAI's fields over our own: what is sent beside them is a field of a job.
fn openai(required: &[&str], pictures: &[(&str, Value)]) -> Value {
    let mut all = properties(JOB_FIELDS);
    all.extend(properties(openai_fields::FIELDS));
    all.extend(pictures.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())));
    json!({ "type": "object", "required": required, "properties": all, "additionalProperties": false })
}

fn extras(properties: &[(&str, Value)], required: &[&str]) -> Value {
    let number = || json!({ "type": "number" });
    let mut all = vec![
        ("resize_mode", json!({ "type": "integer", "enum": [0, 1], "default": 0 })),
        ("upscaling_resize", json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 8, "default": 2 })),
        ("upscaling_resize_w", json!({ "type": "integer", "minimum": 1, "maximum": 16384, "default": 512 })),
        ("upscaling_resize_h", json!({ "type": "integer", "minimum": 1, "maximum": 16384, "default": 512 })),
        ("upscaling_crop", json!({ "type": "boolean", "default": true })),
        ("upscaler_1", json!({ "type": "string", "default": "None" })),
        ("upscaler_2", json!({ "type": "string", "default": "None" })),
        ("extras_upscaler_2_visibility", number()),
        ("gfpgan_visibility", number()),
        ("codeformer_visibility", number()),
    ];
    all.extend_from_slice(properties);
    object(&all, required)
}

fn states() -> Value {
    json!({ "type": "string", "enum": ["queued", "running", "completed", "failed", "cancelled"] })
}

fn accepted() -> Value {
    let text = || json!({ "type": "string" });
    object(
        &[
            ("job_id", text()),
            ("sse_url", text()),
            ("url", text()),
            ("status", states()),
            ("position", json!({ "type": ["integer", "null"] })),
            ("seed", json!({ "type": "integer" })),
            ("model", text()),
        ],
        &["job_id", "sse_url", "status"],
    )
}

fn summary() -> Vec<(&'static str, Value)> {
    vec![
        ("job_id", json!({ "type": "string" })),
        ("status", states()),
        ("position", json!({ "type": ["integer", "null"] })),
        ("progress", object(&[("step", json!({ "type": "integer" })), ("total", json!({ "type": "integer" }))], &[])),
        ("seed", json!({ "type": "integer" })),
    ]
}

/// What became of a device when plugins were looked for again.
fn change() -> Value {
    let text = || json!({ "type": "string" });
    let names = ["file", "backend", "version", "code", "reason", "remedy"];
    let unfit = object(&names.map(|name| (name, text())), &names);
    object(
        &[
            ("device", text()),
            ("outcome", json!({ "type": "string", "enum": ["unchanged", "switched", "kept"] })),
            ("backend", text()),
            ("version", text()),
            ("file", text()),
            ("reason", text()),
            ("unfit", json!({ "type": "array", "items": unfit })),
        ],
        &["device", "outcome", "backend", "version", "file", "reason", "unfit"],
    )
}

fn error() -> Value {
    let codes: Vec<&str> = FaultCode::ALL.iter().map(|c| c.as_str()).collect();
    let text = || json!({ "type": "string" });
    let inner = object(
        &[
            ("code", json!({ "type": "string", "enum": codes })),
            ("message", text()),
            ("field", text()),
            ("retriable", json!({ "type": "boolean" })),
            ("request_id", text()),
            ("errors", json!({ "type": "array", "items": { "type": "object" } })),
        ],
        &["code", "message"],
    );
    object(&[("error", inner)], &["error"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::routes::ROUTES;

    #[test]
    fn every_reference_leads_somewhere() {
        let components = components();
        let text = ROUTES
            .iter()
            .map(|r| format!("{} {}", responses(r), request_body(r).unwrap_or_default()))
            .collect::<String>()
            + &components.to_string();
        let references = text.split("\"#/components/").skip(1).filter_map(|rest| rest.split('"').next());
        let mut seen = 0;
        for reference in references {
            seen += 1;
            assert!(components.pointer(&format!("/{reference}")).is_some(), "{reference}");
        }
        assert!(seen > 20);
    }
}
