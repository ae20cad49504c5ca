use bytes::Bytes;
use protocol::{Cursor, FeedId, Offset};

/// What is sent to who would otherwise hear nothing: a comment.
pub fn heartbeat() -> Bytes {
    Bytes::from_static(b":\n\n")
}

/// For how many milliseconds the client is to wait before it connects again.
pub fn retry(ms: u64) -> Bytes {
    format!("retry: {ms}\n\n").into()
}

/// An event with a name, and the cursor that its reader has then.
pub fn event(name: &str, cursor: Option<&Cursor>, data: &str) -> Bytes {
    let mut out = Vec::with_capacity(data.len() + 80);
    let id = cursor.map(|cursor| (&cursor.feed, cursor.offset));
    write_event(&mut out, Some(name), id, data.as_bytes());
    out.into()
}

/// Appends an event. One without a name is a `message` to its reader. A line end in the data, which
/// in JSON is but white space, comes out as a line feed.
pub fn write_event(out: &mut Vec<u8>, name: Option<&str>, id: Option<(&FeedId, Offset)>, data: &[u8]) {
    if let Some((feed, offset)) = id {
        for part in ["id: ", feed.as_str(), ".", &offset.to_string(), "\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    if let Some(name) = name {
        for part in ["event: ", name, "\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    for line in data.split(|byte| matches!(byte, b'\n' | b'\r')) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_its_cursor_its_name_and_its_data_line_by_line() {
        let (feed, mut out) = ("k3f9".parse().unwrap(), Vec::new());
        write_event(&mut out, None, Some((&feed, 5)), b"{\"a\":\n1}");
        assert_eq!(out, b"id: k3f9.5\ndata: {\"a\":\ndata: 1}\n\n");
        let cursor = Cursor::new(feed, 7);
        assert_eq!(event("reset", Some(&cursor), "{}"), "id: k3f9.7\nevent: reset\ndata: {}\n\n");
        assert_eq!(event("close", None, "{}"), "event: close\ndata: {}\n\n");
    }

    #[test]
    fn no_line_end_of_a_payload_ends_its_line_unnoticed() {
        let mut out = Vec::new();
        write_event(&mut out, None, None, b"[\r\n1,\r2]\n\n");
        assert!(!out.contains(&b'\r'));
        let text = String::from_utf8(out).unwrap();
        let (lines, end) = text.split_at(text.len() - 1);
        assert_eq!(end, "\n");
        let data: Vec<&str> = lines.lines().map(|line| line.strip_prefix("data: ").unwrap()).collect();
        assert_eq!(serde_json::from_str::<Vec<u8>>(&data.join("\n")).unwrap(), [1, 2]);
    }
}
