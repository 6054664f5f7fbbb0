//! Callers who mean harm, in a role that may ask: made-up bytes, halves of requests, spans without end, answers that nobody
//! reads, and connections that say nothing. The daemon answers the next caller, goes on sampling, and keeps nothing of theirs.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::LazyLock,
    time::Duration,
};

use profiler_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        CompareProfilesRequest, GetRangeRequest, LeaseWatchRequest, ProfileSelector, QueryProfileRequest,
        profile_selector::Target,
    },
};
use profiler_tests::{daemon::Daemon, programs::wait_for};
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};

use crate::{FAST_HZ, MEMORY_CAP_BYTES, failed_parts, host, only, profile_once, start};

/// Requests of each kind of harm.
const REQUESTS: usize = 10_000;
/// Requests on one connection, as many as one may have open at a time.
const PER_CONNECTION: usize = 32;
/// Connections that say nothing, far more than are let in.
const SILENT_CONNECTIONS: usize = 2_000;
/// How long a caller waits for what the daemon may not say.
const PATIENCE: Duration = Duration::from_millis(60);
/// Descriptors that come and go in a daemon at rest.
const SLACK: usize = 4;
/// What can be called that is not of our contract, and a method that does not exist.
const OTHER_METHODS: [&str; 4] = [
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/profiler.v1.ProfileService/Nothing",
    "/profiler.v1.NoService/QueryProfile",
];
const QUERY: &str = "/profiler.v1.ProfileService/QueryProfile";
/// Levels of messages in messages that are made up.
const DEPTH: usize = 4;

/// Types and flags of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW: u16 = 4;

#[test]
fn ten_thousand_hostile_requests_leave_it_sampling() {
    let Some(host) = host() else { return };
    let program = host.rust("deep");
    let deep = start(&program, &[]);
    let daemon = host.daemon(&only(FAST_HZ, "deep"));
    daemon.wait_for_samples(deep.pid(), 200, crate::SAMPLES_WITHIN);
    let baseline = sockets(&daemon);
    let socket = daemon.socket();
    let harms: [(&str, usize, Harm); 5] = [
        ("made-up messages", 6_000, fuzzed_messages),
        ("spans without end", 1_000, giant_ranges),
        ("halves of requests", 1_500, half_open),
        ("broken frames", 1_500, broken_frames),
        ("unread answers", 0, unread_answers),
    ];
    assert!(harms.iter().map(|(_, requests, _)| requests).sum::<usize>() >= REQUESTS);
    for (name, requests, harm) in harms {
        let before = daemon.process(deep.pid())["samples"].as_u64().unwrap();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut kept = Vec::new();
        let mut heard = 0;
        for connection in 0..requests.div_ceil(PER_CONNECTION).max(UNREAD_CONNECTIONS) {
            let mut caller = Caller::connect(socket);
            harm(&mut caller, deep.pid(), &mut random);
            // What is left open goes on while others come, and one that is refused is no harm.
            if connection % 4 == 0 && kept.len() < MAX_KEPT {
                kept.push(caller);
            } else {
                heard += caller.hear_out();
            }
        }
        let peak = assert_unharmed(&daemon, name);
        drop(kept);
        daemon.wait_for_samples(deep.pid(), before + 200, crate::SAMPLES_WITHIN);
        println!("{name}: {heard} bytes of answers, {} KiB resident", peak >> 10);
    }
    assert_back_to(&daemon, baseline);
    profile_once(&daemon, deep.pid(), 500, |profile| profile.rooted_share() >= 99.0).assert_rooted(99.0);
}

#[test]
fn silent_connections_are_let_go() {
    let Some(host) = host() else { return };
    let program = host.rust("deep");
    let deep = start(&program, &[]);
    let daemon = host.daemon(&only(FAST_HZ, "deep"));
    daemon.wait_for_samples(deep.pid(), 200, crate::SAMPLES_WITHIN);
    let baseline = sockets(&daemon);
    let refused = |daemon: &Daemon| daemon.status()["api"]["refused_connections"].as_u64().unwrap();
    let before = refused(&daemon);
    let silent: Vec<_> = (0..SILENT_CONNECTIONS).map(|_| connect(daemon.socket())).collect();
    // They hold every place, but not for ever.
    let mut status = None;
    wait_for("place for a caller", Duration::from_secs(30), || {
        let output = daemon.cli(&["status", "--json"]);
        status = (output.code == Some(0)).then_some(output.stdout);
        status.as_ref().map(|_| ())
    });
    assert!(refused(&daemon) - before >= SILENT_CONNECTIONS as u64 / 2, "{status:?}");
    assert_unharmed(&daemon, "silent connections");
    assert_back_to(&daemon, baseline);
    profile_once(&daemon, deep.pid(), 500, |profile| profile.rooted_share() >= 99.0).assert_rooted(99.0);
    drop(silent);
}

/// What can be called, and with what.
struct Contract {
    methods: Vec<Method>,
    /// By their full names.
    messages: BTreeMap<String, DescriptorProto>,
}

struct Method {
    path: String,
    /// The full name of its message; of a method of others nothing that is known here.
    request: String,
}

/// As the daemon serves it: what is added to it is called here too.
static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut contract = Contract {
        methods: Vec::new(),
        messages: BTreeMap::new(),
    };
    for file in set.file {
        let package = file.package.unwrap_or_default();
        for service in file.service {
            let service_name = service.name.unwrap_or_default();
            contract.methods.extend(service.method.into_iter().map(|method| Method {
                path: format!("/{package}.{service_name}/{}", method.name.unwrap_or_default()),
                request: method.input_type.unwrap_or_default(),
            }));
        }
        for message in file.message_type {
            let name = format!(".{package}.{}", message.name.as_deref().unwrap_or_default());
            contract.messages.insert(name, message);
        }
    }
    assert!(contract.methods.iter().any(|method| method.path == QUERY));
    contract.methods.extend(OTHER_METHODS.map(|path| Method {
        path: path.to_owned(),
        request: String::new(),
    }));
    contract
});

impl Contract {
    /// A message of this name with some of its fields, each with a value of its type that nobody would send.
    fn made_up(&self, name: &str, pid: u32, random: &mut Random, depth: usize) -> Vec<u8> {
        const NUMBERS: [u64; 6] = [0, 1, 2, u32::MAX as u64, i64::MAX as u64, u64::MAX];
        const TEXTS: [&str; 5] = ["", "deep", "host_cpu_busy_ratio", "0123456789abcdef", "\x1b[2J<b>&\0"];
        let mut bytes = Vec::new();
        let Some(message) = self.messages.get(name) else {
            return bytes;
        };
        for field in &message.field {
            if random.below(3) == 0 {
                continue;
            }
            let (wire, value) = match field.r#type() {
                Type::Message if depth == 0 => continue,
                Type::Message => {
                    let name = field.type_name.as_deref().unwrap_or_default();
                    (2, self.made_up(name, pid, random, depth - 1))
                }
                Type::String | Type::Bytes => (2, TEXTS[random.below(TEXTS.len())].into()),
                Type::Double | Type::Fixed64 | Type::Sfixed64 => (1, random.next().to_le_bytes().into()),
                Type::Float | Type::Fixed32 | Type::Sfixed32 => (5, (random.next() as u32).to_le_bytes().into()),
                _ => {
                    let number = match random.below(3) {
                        0 => u64::from(pid),
                        1 => random.next(),
                        _ => NUMBERS[random.below(NUMBERS.len())],
                    };
                    (0, varint(number))
                }
            };
            let number = field.number.unwrap_or_default() as u64;
            bytes.extend(varint((number << 3) | wire));
            if wire == 2 {
                bytes.extend(varint(value.len() as u64));
            }
            bytes.extend(value);
        }
        bytes
    }
}

/// A number as messages have it: seven bits a byte, the lowest first.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 128 {
        bytes.push(number as u8 | 128);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Connections that are left open while others come: fewer than are let in.
const MAX_KEPT: usize = 40;
/// Connections that ask for answers and do not read them.
const UNREAD_CONNECTIONS: usize = 30;

type Harm = fn(&mut Caller, u32, &mut Random);

/// Messages of any bytes to every method, and made-up ones of the kind that it takes, some of them damaged, with lengths that
/// are not theirs.
fn fuzzed_messages(caller: &mut Caller, pid: u32, random: &mut Random) {
    caller.greet(&[]);
    for request in 0..PER_CONNECTION {
        let method = &CONTRACT.methods[random.below(CONTRACT.methods.len())];
        let mut message = match random.below(4) {
            0 => random.bytes(64),
            1 => selector(pid, i64::MIN, i64::MAX),
            _ => CONTRACT.made_up(&method.request, pid, random, DEPTH),
        };
        // Half of them whole.
        for _ in 0..random.below(8).saturating_sub(3) {
            if let Some(byte) = (!message.is_empty()).then(|| random.below(message.len())) {
                message[byte] = random.next() as u8;
            }
        }
        let claimed = match random.below(8) {
            0 => u32::MAX,
            1 => random.next() as u32,
            _ => message.len() as u32,
        };
        let compressed = u8::from(random.below(8) == 0);
        let mut body = vec![compressed];
        body.extend(claimed.to_be_bytes());
        body.extend(message);
        caller.headers(request, &method.path, 0);
        caller.data(request, &body, END_STREAM);
    }
}

/// Queries and leases over all of time, and beyond it.
fn giant_ranges(caller: &mut Caller, pid: u32, random: &mut Random) {
    const TIMES: [i64; 7] = [
        i64::MIN,
        -62_135_596_801,
        -1,
        0,
        253_402_300_800,
        i64::MAX - 1,
        i64::MAX,
    ];
    caller.greet(&[]);
    for request in 0..PER_CONNECTION {
        let (start, end) = (TIMES[random.below(TIMES.len())], TIMES[random.below(TIMES.len())]);
        let (method, message) = match random.below(5) {
            0 => (
                "/profiler.v1.ProfileService/QueryPprof",
                selector(random.next() as u32, start, end),
            ),
            1 => (
                "/profiler.v1.ProfileService/CompareProfiles",
                CompareProfilesRequest {
                    before: Some(span(pid, start, end)),
                    after: Some(span(pid, end, start)),
                    ..CompareProfilesRequest::default()
                }
                .encode_to_vec(),
            ),
            2 => (
                "/profiler.v1.MetricsService/GetRange",
                GetRangeRequest {
                    start_time: time(start),
                    end_time: time(end),
                    step: Some(prost_types::Duration { seconds: 0, nanos: 1 }),
                    quantiles: vec![0.5, f64::NAN, 1.0],
                    ..GetRangeRequest::default()
                }
                .encode_to_vec(),
            ),
            3 => (
                "/profiler.v1.WatchService/LeaseWatch",
                LeaseWatchRequest {
                    pid,
                    duration: Some(prost_types::Duration {
                        seconds: start,
                        nanos: random.next() as i32,
                    }),
                }
                .encode_to_vec(),
            ),
            _ => (QUERY, selector(pid, start, end)),
        };
        caller.headers(request, method, 0);
        caller.data(request, &message_of(&message), END_STREAM);
    }
}

/// Requests that begin and never end.
fn half_open(caller: &mut Caller, pid: u32, random: &mut Random) {
    caller.greet(&[]);
    for request in 0..PER_CONNECTION {
        let method = &CONTRACT.methods[random.below(CONTRACT.methods.len())];
        caller.headers(request, &method.path, 0);
        let body = message_of(&selector(pid, 0, 1));
        let part = random.below(body.len());
        caller.data(request, &body[..part], 0);
    }
}

/// Bytes that are no HTTP/2, some of them after a proper beginning.
fn broken_frames(caller: &mut Caller, _pid: u32, random: &mut Random) {
    if random.below(4) > 0 {
        caller.greet(&[]);
    }
    for request in 0..PER_CONNECTION {
        match random.below(4) {
            0 => caller.send(&random.bytes(200)),
            1 => {
                let payload = random.bytes(200);
                caller.frame(
                    random.next() as u8,
                    random.next() as u8,
                    random.below(64) as u32,
                    &payload,
                );
            }
            2 => caller.send(&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]),
            _ => caller.headers(request, &"/x".repeat(random.below(20_000)), END_STREAM),
        }
    }
}

/// Queries with a window that lets no byte of an answer through.
fn unread_answers(caller: &mut Caller, pid: u32, _random: &mut Random) {
    caller.greet(&[(INITIAL_WINDOW, 0)]);
    for request in 0..PER_CONNECTION {
        caller.headers(request, QUERY, 0);
        caller.data(request, &message_of(&selector(pid, 0, 4_000_000_000)), END_STREAM);
    }
}

fn time(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn span(pid: u32, start: i64, end: i64) -> ProfileSelector {
    ProfileSelector {
        target: Some(Target::Pid(pid)),
        kind: 1,
        start_time: time(start),
        end_time: time(end),
    }
}

fn selector(pid: u32, start: i64, end: i64) -> Vec<u8> {
    QueryProfileRequest {
        selector: Some(span(pid, start, end)),
        view: None,
    }
    .encode_to_vec()
}

/// A message with its prefix: not compressed, and its length.
fn message_of(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// A connection of HTTP/2 made by hand, as no library would make it. Writing to one that the daemon closed is no error.
struct Caller {
    stream: UnixStream,
}

impl Caller {
    fn connect(socket: &Path) -> Self {
        let stream = connect(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A daemon that does not read must not stop the test.
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            let expected = [
                ErrorKind::BrokenPipe,
                ErrorKind::ConnectionReset,
                ErrorKind::WouldBlock,
                ErrorKind::TimedOut,
            ];
            assert!(expected.contains(&error.kind()), "{error}");
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = (payload.len() as u32).to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.send(&[&head, payload].concat());
    }

    /// The beginning of a connection, with these settings.
    fn greet(&mut self, settings: &[(u16, u32)]) {
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let settings = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat());
        let settings: Vec<u8> = settings.collect();
        self.frame(SETTINGS, 0, 0, &settings);
    }

    fn headers(&mut self, request: usize, path: &str, flags: u8) {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // A literal without indexing, with a new name (RFC 7541, section 6.2.2).
            block.push(0);
            for text in [name, value] {
                push_length(&mut block, text.len());
                block.extend(text.as_bytes());
            }
        }
        self.frame(HEADERS, flags | END_HEADERS, stream_of(request), &block);
    }

    fn data(&mut self, request: usize, bytes: &[u8], flags: u8) {
        self.frame(DATA, flags, stream_of(request), bytes);
    }

    /// Reads what the daemon says until it says no more for a while, and returns how much that was.
    fn hear_out(mut self) -> usize {
        let (mut heard, mut buffer) = (0, vec![0; 64 << 10]);
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return heard,
                Ok(read) => heard += read,
            }
        }
    }
}

/// A length with a prefix of seven bits (RFC 7541, section 5.1).
fn push_length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        return block.push(length as u8);
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// Streams of a client are odd.
fn stream_of(request: usize) -> u32 {
    2 * request as u32 + 1
}

/// A connection, however full the queue of those who wait to be let in is.
fn connect(socket: &Path) -> UnixStream {
    wait_for("connection", Duration::from_secs(10), || {
        UnixStream::connect(socket).ok()
    })
}

/// The same numbers each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most);
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// It answers, no part has failed, and it is within its memory, which is returned.
#[track_caller]
fn assert_unharmed(daemon: &Daemon, after: &str) -> u64 {
    let resident = daemon.resident_bytes();
    assert!(resident < MEMORY_CAP_BYTES, "{after}: {resident} bytes resident");
    wait_for("answer", Duration::from_secs(40), || {
        (daemon.cli(&["status"]).code == Some(0)).then_some(())
    });
    assert_eq!(failed_parts(daemon), [""; 0], "{after}");
    resident
}

/// Descriptors of sockets. Files are opened meanwhile for the readings of what is watched.
fn sockets(daemon: &Daemon) -> usize {
    let descriptors = daemon.descriptors();
    let is_socket = |path: &&std::path::PathBuf| path.to_string_lossy().starts_with("socket:");
    descriptors.iter().filter(is_socket).count()
}

/// Waits until the daemon has about as many sockets as before.
fn assert_back_to(daemon: &Daemon, baseline: usize) {
    wait_for("end of the connections", Duration::from_secs(60), || {
        (sockets(daemon) <= baseline + SLACK).then_some(())
    });
}
