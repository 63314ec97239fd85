//! The interface as an OpenAPI 3.1 document and as a page, both made from the tables that the code itself uses.

use super::{
    fields::{Field, JOB_FIELDS, Kind},
    routes::{Access, ROUTES},
    schemas,
};
use crate::fault::FaultCode;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// The document.
pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let mut names = ["id", "index"].iter();
        let path = route
            .pattern
            .split('/')
            .map(|s| if s == "{}" { format!("{{{}}}", names.next().unwrap_or(&"rest")) } else { s.to_owned() });
        let path = path.collect::<Vec<_>>().join("/");
        let mut operation = json!({
            "summary": route.summary,
            "operationId": format!("{}{}", route.method.as_str().to_lowercase(), path.replace(['/', '{', '}', '-', '.'], "_")),
            "parameters": schemas::parameters(route, &path),
            "responses": schemas::responses(route),
            "security": if route.access == Access::Token { json!([{ "bearer": [] }, { "basic": [] }, {}]) } else { json!([]) },
        });
        if let Some(body) = schemas::request_body(route) {
            operation["requestBody"] = body;
        }
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        entry[route.method.as_str().to_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "sd-worker", "version": env!("CARGO_PKG_VERSION"), "description": "Turns prompts into pictures and streams every step." },
        "paths": paths,
        "components": schemas::components(),
    })
}

/// The page. Nothing in it comes from a request.
pub(crate) fn page() -> String {
    let escape = |text: &str| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        // `code` in the tables' texts becomes code on the page.
        text.split('`')
            .enumerate()
            .map(|(i, part)| if i % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() })
            .collect::<String>()
    };
    let mut html = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>sd-worker: interface</title><link rel=icon href='data:,'>\
         <style>:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b1b1f;background:#fff}\
         table{border-collapse:collapse;width:100%;margin:1rem 0 2rem}td,th{text-align:left;vertical-align:top;padding:.35rem .6rem;border-bottom:1px solid #ddd}\
         code{background:#f0f0f4;padding:0 .25em;border-radius:3px}@media(prefers-color-scheme:dark){body{background:#16161a;color:#e8e8ee}\
         code{background:#2a2a31}td,th{border-color:#333}}</style>\
         <h1>sd-worker</h1><p>The same as a document: <a href=/openapi.json>openapi.json</a>. The page to draw with: <a href=/>start</a>.</p>",
    );
    html.push_str("<h2>Routes</h2><table><tr><th>Method<th>Path<th>What<th>Token");
    for r in ROUTES {
        let token = if r.access == Access::Token { "if the worker has any" } else { "no" };
        let _ = write!(html, "<tr><td>{}<td><code>{}</code><td>{}<td>{token}", r.method, r.pattern, escape(r.summary));
    }
    html.push_str("</table><h2>Fields of a job</h2><table><tr><th>Name<th>May be<th>Default<th>What");
    let inner = |f: &'static Field| match f.kind {
        Kind::Group(table) => table,
        _ => &[],
    };
    let rows = JOB_FIELDS
        .iter()
        .flat_map(|f| std::iter::once((None, f)).chain(inner(f).iter().map(move |part| (Some(f.name), part))));
    for (group, f) in rows {
        let group = group.map_or_else(String::new, |name| format!("{name}."));
        let also = if f.aliases.is_empty() {
            String::new()
        } else {
            format!("<br>also {}", f.aliases.iter().map(|a| format!("<code>{a}</code>")).collect::<Vec<_>>().join(", "))
        };
        let _ = write!(
            html,
            "<tr><td><code>{group}{}</code>{also}<td>{}<td>{}<td>{}",
            f.name,
            escape(&f.kind.describe()),
            escape(f.default),
            escape(f.doc)
        );
    }
    html.push_str("</table><h2>Error codes</h2><table><tr><th>Code<th>HTTP status<th>May succeed later");
    for c in FaultCode::ALL {
        let _ = write!(
            html,
            "<tr><td><code>{}</code><td>{}<td>{}",
            c.as_str(),
            c.status(),
            if c.retriable() { "yes" } else { "no" }
        );
    }
    html.push_str("</table></html>");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_every_route_and_field() {
        let document = document();
        let operations: usize =
            document["paths"].as_object().unwrap().values().map(|p| p.as_object().unwrap().len()).sum();
        assert_eq!(operations, ROUTES.len());
        let properties = document["components"]["schemas"]["JobRequest"]["properties"].as_object().unwrap();
        assert!(JOB_FIELDS.iter().all(|f| properties.contains_key(f.name)));
    }
}
