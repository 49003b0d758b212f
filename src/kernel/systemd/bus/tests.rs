use std::os::unix::net::UnixListener;

use super::*;

const SHORT: Duration = Duration::from_millis(50);

/// A connection whose other end has said `bytes` and, unless `ended`, says nothing more.
fn bus(bytes: &[u8], ended: bool) -> (Bus, Option<UnixStream>) {
    let (stream, mut other) = UnixStream::pair().unwrap();
    other.write_all(bytes).unwrap();
    let bus = Bus { stream, serial: 0, timeout: SHORT, jobs: Vec::new() };
    (bus, (!ended).then_some(other))
}

/// A message as a bus sends it: an answer or error to `serial`, or a signal.
fn sent(kind: u8, serial: u32, name: &str, arguments: &[Variant]) -> Vec<u8> {
    let mut body = Vec::new();
    for argument in arguments {
        put(&mut body, argument).unwrap();
    }
    let mut fields = Vec::new();
    let code = if kind == ERROR { 4 } else { 3 };
    let signature: String = arguments.iter().map(Variant::signature).collect();
    for (code, value) in [
        (5, Variant::u32(serial)),
        (code, Variant::text(name)),
        (7, Variant::text(":1.1")),
        (8, Variant::Text('g', signature)),
    ] {
        align(&mut fields, 8);
        fields.push(code);
        put_variant(&mut fields, &value).unwrap();
    }
    let mut message = vec![b'l', kind, 0, 1];
    for number in [body.len(), 77, fields.len()] {
        message.extend(u32::try_from(number).unwrap().to_le_bytes());
    }
    message.extend(fields);
    align(&mut message, 8);
    message.extend(body);
    message
}

fn call<'a>(member: &'a str, arguments: &'a [Variant]) -> Call<'a> {
    Call { destination: "a.b", path: "/a", interface: "a.b.C", member, arguments }
}

#[test]
fn a_call_has_the_bytes_of_the_specification() {
    let message = marshal(&call("Do", &[Variant::text("hi"), Variant::u32(7)]), 3).unwrap();
    let expected: &[&[u8]] = &[
        b"l\x01\0\x01\x0c\0\0\0\x03\0\0\0\x4d\0\0\0",
        b"\x01\x01o\0\x02\0\0\0/a\0\0\0\0\0\0",
        b"\x02\x01s\0\x05\0\0\0a.b.C\0\0\0",
        b"\x03\x01s\0\x02\0\0\0Do\0\0\0\0\0\0",
        b"\x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0",
        b"\x08\x01g\0\x02su\0\0\0\0\0\0\0\0",
        b"\x02\0\0\0hi\0\0\x07\0\0\0",
    ];
    assert_eq!(message.len() % 4, 0);
    // The length of the fields is without their padding, the last field's 8 bytes and 1.
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let mut all = expected.concat();
    all.truncate(message.len().max(16));
    assert_eq!(text(&message[16..80]), text(&all[16..80]));
    assert_eq!(text(&message[message.len() - 12..]), text(expected[6]));
}

#[test]
fn values_are_aligned_as_their_types_are() {
    for (value, bytes) in [
        (Variant::bool(true), &b"\x01\0\0\0"[..]),
        (Variant::Number('n', u64::MAX), b"\xff\xff"),
        (Variant::Number('d', 1.0f64.to_bits()), b"\0\0\0\0\0\0\xf0\x3f"),
        (Variant::Array("y".into(), vec![Variant::byte(3)]), b"\x01\0\0\0\x03"),
        // Padding before the first element is there without one, and does not count.
        (Variant::Array("(ss)".into(), Vec::new()), b"\0\0\0\0\0\0\0\0"),
        (Variant::Array("t".into(), vec![Variant::u64(1)]), b"\x08\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0"),
        (Variant::Boxed(Box::new(Variant::u32(5))), b"\x01u\0\0\x05\0\0\0"),
    ] {
        let mut made = Vec::new();
        put(&mut made, &value).unwrap();
        assert_eq!(made, bytes, "{value}");
    }
}

#[test]
fn answers_are_told_from_errors_and_signals() {
    let job = "/org/freedesktop/systemd1/job/5";
    let mut said = sent(
        SIGNAL,
        0,
        "JobRemoved",
        &[Variant::u32(5), Variant::text(job), Variant::text("x.scope"), Variant::text("done")],
    );
    said.extend(sent(SIGNAL, 0, "Other", &[Variant::u32(5)]));
    said.extend(sent(ANSWER, 99, "", &[]));
    said.extend(sent(ANSWER, 1, "", &[Variant::text(job)]));
    said.extend(sent(ERROR, 2, "a.b.UnitExists", &[Variant::text("is there")]));
    let (mut bus, _other) = bus(&said, false);
    assert_eq!(bus.call(&call("Start", &[])).unwrap().unwrap().text().unwrap(), job);
    // It came before the answer.
    assert_eq!(bus.wait_for_job(job).unwrap(), "done");
    let refusal = bus.call(&call("Start", &[])).unwrap().unwrap_err();
    assert_eq!((refusal.name.as_str(), refusal.to_string().as_str()), ("a.b.UnitExists", "is there (UnitExists)"));
}

#[test]
fn silence_ends_and_is_an_error() {
    let (mut silent, _other) = bus(b"", false);
    let begun = Instant::now();
    assert!(format!("{:#}", silent.call(&call("Start", &[])).unwrap_err()).contains("no answer in time"));
    assert!(format!("{:#}", silent.wait_for_job("/j").unwrap_err()).contains("no answer in time"));
    assert!(begun.elapsed() >= SHORT);
    // Half a message is silence too.
    let (mut half, _other) = bus(&sent(ANSWER, 1, "", &[])[..20], false);
    assert!(format!("{:#}", half.call(&call("Start", &[])).unwrap_err()).contains("no answer in time"));
}

#[test]
fn nonsense_is_an_error() {
    let big = [&b"l\x02\0\x01"[..], &[255; 12]].concat();
    let mut short = sent(ANSWER, 1, "", &[Variant::text("abc")]);
    // The string claims to be longer than the message.
    let at = short.len() - 8;
    short[at] = 200;
    for (bytes, word) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "does not speak D-Bus"),
        (&big, "a message of"),
        (b"B\x02\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0", "does not speak D-Bus as"),
        (b"", "closed the connection"),
    ] {
        let (mut bus, _) = bus(bytes, true);
        // A pair whose other end is gone may refuse to be written to, as a bus that hangs up does.
        let error = format!("{:#}", bus.call(&call("Start", &[])).unwrap_err());
        assert!(error.contains(word) || error.contains("send to the bus"), "{error}");
    }
    let (mut bus, _other) = bus(&short, false);
    assert!(bus.call(&call("Start", &[])).unwrap().unwrap().text().is_err());
}

#[test]
fn a_bus_that_lets_nobody_in_says_so() {
    for (bytes, word) in [
        (&b"REJECTED EXTERNAL\r\n"[..], "does not let uid"),
        (b"DATA\r\nREJECTED EXTERNAL\r\n", "does not let uid"),
        (&[b'x'; 600], "does not speak D-Bus"),
        (b"DATA\r\n", "no answer in time"),
    ] {
        let (mut bus, _other) = bus(bytes, false);
        let error = format!("{:#}", bus.authenticate(true).unwrap_err());
        assert!(error.contains(word), "{error}");
    }
    let (mut bus, _other) = bus(b"DATA\r\nOK 0123\r\n", false);
    bus.authenticate(true).unwrap();
}

#[test]
fn the_first_address_that_answers_is_taken() {
    let name = format!("orlop-test-{}", std::process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let addresses = format!("tcp:host=a;unix:path=/nowhere%2fat%20all,guid=1;unix:abstract={name}");
    // Connected, but nobody speaks.
    let error = format!("{:#}", connect(&addresses, true, SHORT).unwrap_err());
    assert!(error.contains("no answer in time"), "{error}");
    drop(listener);
    let error = format!("{:#}", connect("unix:path=/nowhere%2fat%20all,guid=1", true, SHORT).unwrap_err());
    assert!(error.contains("unix:path=/nowhere%2fat%20all"), "{error}");
    assert!(connect("tcp:host=a", true, SHORT).unwrap_err().to_string().contains("no address of a UNIX socket"));
    assert_eq!(unescape("/a%20b%zz"), "/a b%zz");
}
