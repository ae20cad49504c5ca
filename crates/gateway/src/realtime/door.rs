use axum::{
    extract::{Query, Request, State},
    http::StatusCode,
    response::Response,
};

use super::{binding::shorten, message::Vsn};
use crate::{
    access::key_print,
    door::Door,
    http::{Front, open, problem},
};

/// `/realtime/v1/websocket` and `/socket/websocket`. Of the parameters of the URL, `vsn` and `apikey` count; others
/// are the application's own (`params` of the client).
pub async fn serve(State(front): State<Front>, request: Request) -> Response {
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(request.uri()) else {
        return problem(StatusCode::BAD_REQUEST, "bad_message", "the query string cannot be read");
    };
    let of_query = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let Some(vsn) = Vsn::of(of_query("vsn")) else {
        let wrong = shorten(of_query("vsn").unwrap_or_default());
        let message = format!("'{wrong}' is not a vsn that is spoken here; there are: 1.0.0, 2.0.0");
        return problem(StatusCode::BAD_REQUEST, "bad_handshake", &message);
    };
    let header = request.headers().get("x-api-key").and_then(|value| value.to_str().ok());
    let apikey = of_query("apikey").or(header).filter(|key| !key.is_empty()).map(str::to_owned);
    let door = Door::Realtime { vsn, apikey: apikey.as_deref().map(key_print) };
    open(front, door, apikey.as_deref(), request).await
}
