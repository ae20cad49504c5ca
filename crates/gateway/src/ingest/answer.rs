//! What a client gets back: the stored row, and the configured message.

use super::row::Keys;

/// The row is PostgreSQL's own text, so that no number changes on the way. A column `message` of
/// the table wins over the configured one: the row is the truth, the message a courtesy.
pub(super) fn body(row: String, message: Option<&str>) -> String {
    let Some(message) = message else { return row };
    let Some(open) = row.strip_suffix('}') else { return row };
    let Ok(Keys(keys)) = serde_json::from_str(&row) else { return row };
    if keys.iter().any(|key| key == "message") {
        return row;
    }
    let comma = if keys.is_empty() { "" } else { "," };
    format!("{open}{comma}\"message\":{}}}", serde_json::Value::from(message))
}

#[cfg(test)]
mod tests {
    use super::body;

    #[test]
    fn the_message_follows_the_row() {
        let row = r#"{"id":1,"value":9007199254740993}"#.to_owned();
        assert_eq!(body(row.clone(), None), row);
        assert_eq!(body(row, Some("say \"hi\"")), r#"{"id":1,"value":9007199254740993,"message":"say \"hi\""}"#);
        assert_eq!(body("{}".into(), Some("ok")), r#"{"message":"ok"}"#);
    }

    #[test]
    fn a_column_of_that_name_wins() {
        let row = r#"{"id":1,"message":null}"#;
        assert_eq!(body(row.into(), Some("stored")), row);
    }
}
