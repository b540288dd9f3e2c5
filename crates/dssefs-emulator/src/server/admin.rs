//! `/_dssefs/`: the addresses for tests and demonstrations, JSON in and out. [`guard`] admits requests from this host
//! that have the access key and its secret as user and password.
//!
//! | request | does |
//! |---|---|
//! | `GET /_dssefs/counters` | the [`Counters`](super::super::counters::Counters) |
//! | `POST /_dssefs/counters/reset` | starts the counters and the log of KMS calls from zero |
//! | `GET /_dssefs/faults` | each rule, and how often it may still strike |
//! | `POST /_dssefs/faults` | replaces the plan; the body is a list of rules |
//! | `GET /_dssefs/kms/trail` | the latest KMS calls with their encryption contexts |
//! | `POST /_dssefs/kms/deny` | denies `{"key": ..., "action": "kms:Decrypt"}` |
//! | `POST /_dssefs/kms/allow` | takes a deny back |

use std::net::SocketAddr;

use http::header::WWW_AUTHENTICATE;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use s3s::HttpResponse;
use serde::Deserialize;
use serde_json::json;

use super::super::faults::Plan;
use super::super::kms::{Action, Exception, Kms};
use super::answer;
use super::guard;
use super::state::State;

/// The prefix of these addresses. It cannot be a bucket's name, because those have no underscore.
pub(super) const PREFIX: &str = "/_dssefs/";

pub(super) fn answer(state: &State, head: &Parts, body: &[u8], peer: SocketAddr) -> HttpResponse {
    if let Err((status, text)) = guard::check(head, peer, state.port, &state.credentials) {
        let mut refusal = answer::plain(status, text);
        if status == StatusCode::UNAUTHORIZED {
            refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"dssefs serve\""));
        }
        return refusal;
    }
    let path = head.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    match (head.method.as_str(), path) {
        ("GET", "counters") => answer::json(StatusCode::OK, &state.counters()),
        ("POST", "counters/reset") => {
            state.reset_counters();
            done()
        }
        ("GET", "faults") => answer::json(StatusCode::OK, &state.faults.standing()),
        ("POST", "faults") => replace_faults(state, body),
        ("GET", "kms/trail") => answer::json(StatusCode::OK, &state.kms.call_log()),
        ("POST", "kms/deny") => change_permission(state, body, Kms::deny),
        ("POST", "kms/allow") => change_permission(state, body, Kms::allow),
        _ => answer::plain(
            StatusCode::NOT_FOUND,
            "There is nothing at this address and method; see the documentation of `dssefs serve`.",
        ),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Permission {
    key: String,
    action: Action,
}

fn replace_faults(state: &State, body: &[u8]) -> HttpResponse {
    match serde_json::from_slice::<Plan>(body) {
        Ok(plan) => {
            state.faults.replace(plan);
            done()
        }
        Err(error) => refused(&error.to_string()),
    }
}

fn change_permission(
    state: &State,
    body: &[u8],
    change: impl FnOnce(&Kms, &str, Action) -> Result<(), Exception>,
) -> HttpResponse {
    match serde_json::from_slice::<Permission>(body) {
        Ok(wanted) => match change(&state.kms, &wanted.key, wanted.action) {
            Ok(()) => done(),
            Err(exception) => refused(&exception.to_string()),
        },
        Err(error) => refused(&error.to_string()),
    }
}

fn done() -> HttpResponse {
    answer::json(StatusCode::OK, &json!({ "done": true }))
}

fn refused(why: &str) -> HttpResponse {
    answer::json(StatusCode::BAD_REQUEST, &json!({ "error": why }))
}
