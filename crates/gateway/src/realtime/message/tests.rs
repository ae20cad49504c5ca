use super::*;
use proptest::prelude::*;

fn refs(message: &Message) -> (&str, &str) {
    (message.join_ref.as_json(), message.reference.as_json())
}

#[test]
fn both_versions_say_the_same() {
    let two = Message::of_text(Vsn::Two, r#"["6","12","realtime:floor","phx_leave",{"a":1}]"#).unwrap();
    let one = r#"{"topic":"realtime:floor","event":"phx_leave","payload":{"a":1},"ref":"12","join_ref":"6"}"#;
    assert_eq!(two, Message::of_text(Vsn::One, one).unwrap());
    assert_eq!(refs(&two), (r#""6""#, r#""12""#));
    let heartbeat = Message::of_text(Vsn::Two, r#"[null,9,"phoenix","heartbeat",{}]"#).unwrap();
    assert_eq!(refs(&heartbeat), ("null", "9"));
    let (join_ref, reference) = (&two.join_ref, &two.reference);
    assert_eq!(
        Vsn::Two.write(join_ref, reference, "realtime:a", "phx_reply", "{}"),
        r#"["6","12","realtime:a","phx_reply",{}]"#
    );
    let first = r#"{"topic":"realtime:a","event":"phx_reply","payload":{},"ref":"12"}"#;
    assert_eq!(Vsn::One.write(join_ref, reference, "realtime:a", "phx_reply", "{}"), first);
}

#[test]
fn refs_are_numbers_that_grow() {
    let is_before = |one: &str, other: &str| {
        let reference = |text: &str| Message::of_text(Vsn::Two, &format!(r#"[{text},null,"a","b",{{}}]"#)).unwrap();
        reference(one).join_ref.is_before(&reference(other).join_ref)
    };
    assert!(is_before(r#""9""#, r#""10""#) && is_before("9", r#""10""#) && is_before("1", "2"));
    for (one, other) in [(r#""10""#, r#""9""#), ("1", "1"), ("null", "1"), ("1", "null"), (r#""a""#, r#""b""#)] {
        assert!(!is_before(one, other), "{one} {other}");
    }
}

#[test]
fn what_is_no_message_is_refused_in_words() {
    for (vsn, text, named) in [
        (Vsn::Two, "", "vsn 2.0.0"),
        (Vsn::Two, "{}", "vsn 2.0.0"),
        (Vsn::Two, r#"["1","1","realtime:a","phx_join"]"#, "vsn 2.0.0"),
        (Vsn::Two, r#"["1",["1"],"realtime:a","phx_join",{}]"#, "'ref'"),
        (Vsn::Two, r#"["1",null,7,"phx_join",{}]"#, "vsn 2.0.0"),
        (Vsn::One, r#"["1","1","realtime:a","phx_join",{}]"#, "vsn 1.0.0"),
        (Vsn::One, r#"{"topic":"a"}"#, "event"),
    ] {
        let why = Message::of_text(vsn, text).unwrap_err();
        assert!(why.contains(named), "{text}: {why}");
    }
    let long = format!(r#"["{}",null,"a","b",{{}}]"#, "x".repeat(MAX_REF_BYTES));
    assert!(Message::of_text(Vsn::Two, &long).unwrap_err().contains("'join_ref'"));
}

fn push(names: [&str; 5], encoding: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![PUSH];
    out.extend(names.map(|name| name.len() as u8));
    out.push(encoding);
    names.iter().for_each(|name| out.extend_from_slice(name.as_bytes()));
    out.extend_from_slice(payload);
    out
}

#[test]
fn a_binary_push_is_a_broadcast() {
    let names = ["6", "", "realtime:größe", "cursor", ""];
    let message = Message::of_binary(Vsn::Two, &push(names, 1, br#"{"x":1}"#)).unwrap();
    assert_eq!((refs(&message), &*message.topic, &*message.event), ((r#""6""#, "null"), "realtime:größe", "broadcast"));
    let content = Content::Json(bytes::Bytes::from_static(br#"{"x":1}"#));
    assert_eq!(
        message.payload,
        Payload::Broadcast { event: "cursor".into(), content: content.clone(), meta: "".into() }
    );
    assert_eq!(write_broadcast("realtime:a", "e", &content), b"\x04\x0a\x01\x00\x01realtime:ae{\"x\":1}");
    for (vsn, bytes, named) in [
        (Vsn::One, push(names, 1, b"{}"), "vsn 1.0.0"),
        (Vsn::Two, vec![], "not a binary message"),
        (Vsn::Two, vec![3, 255, 0, 0, 0, 0, 0], "not a binary message"),
        (Vsn::Two, [&[9][..], &push(names, 1, b"{}")[1..]].concat(), "9 is not a kind"),
        (Vsn::Two, push(names, 2, b"{}"), "2 is not an encoding"),
        (Vsn::Two, push(names, 1, b"{"), "JSON"),
    ] {
        let why = Message::of_binary(vsn, &bytes).unwrap_err();
        assert!(why.contains(named), "{bytes:?}: {why}");
    }
}

#[test]
fn a_push_of_2_84_has_no_meta() {
    let head = [&[3, 1, 2, 14, 6, 1][..], b"612realtime:gr\xf6\xdfecursor"].concat();
    let message = Message::of_binary(Vsn::Two, &[&head, &br#"{"x":1}"#[..]].concat()).unwrap();
    let names = (refs(&message), &*message.topic, &*message.event);
    assert_eq!(names, ((r#""6""#, r#""12""#), "realtime:größe", "broadcast"));
    let content = Content::Json(bytes::Bytes::from_static(br#"{"x":1}"#));
    assert_eq!(message.payload, Payload::Broadcast { event: "cursor".into(), content, meta: "".into() });
    // Neither a ref nor a join_ref, and bytes.
    let message = Message::of_binary(Vsn::Two, b"\x03\x00\x00\x0a\x01\x00realtime:ae\x00\xff").unwrap();
    assert_eq!((refs(&message), &*message.topic), (("null", "null"), "realtime:a"));
    let content = Content::Binary(bytes::Bytes::from_static(b"\x00\xff"));
    assert_eq!(message.payload, Payload::Broadcast { event: "e".into(), content, meta: "".into() });
    let why = Message::of_binary(Vsn::Two, b"\x03\x01\x02\xff\x06\x01612realtime:a").unwrap_err();
    assert!(why.contains("not a binary message"), "{why}");
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80), push in any::<bool>(), text in ".{0,80}") {
        let bytes = if push { [&[PUSH, 1, 1, 2, 2, 0, 0][..], &bytes].concat() } else { bytes };
        drop(Message::of_binary(Vsn::Two, &bytes));
        drop(Message::of_text(Vsn::One, &text));
        drop(Message::of_text(Vsn::Two, &text));
    }
}

#[test]
fn json_is_text_too() {
    assert_eq!(check_json(r#"{"größe":[1,"ä"]}"#.as_bytes()), Ok(()));
    for bad in [&b"\"\xff\""[..], b"{", b"", b"1 2"] {
        assert!(check_json(bad).is_err(), "{bad:?}");
    }
}
