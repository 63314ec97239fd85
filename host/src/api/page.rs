//! The embedded pages: plain HTML and scripts, nothing from another host.

use super::http::{ApiError, Request, Response, bytes_reply, set};
use super::{App, openapi};
use http::StatusCode;
use std::sync::Arc;

const INDEX: &str = include_str!("page.html");

fn html(body: Vec<u8>) -> Response {
    let mut response = bytes_reply(StatusCode::OK, "text/html; charset=utf-8", body);
    set(
        &mut response,
        "content-security-policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob: 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    );
    set(&mut response, "cache-control", "no-cache");
    response
}

/// `GET /`
pub(crate) async fn index(_app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    Ok(html(INDEX.as_bytes().to_vec()))
}

/// `GET /docs`
pub(crate) async fn docs(_app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    Ok(html(openapi::page().into_bytes()))
}
