//! What leaves this host, to where, and what happens to connections on the way.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use dssefs_emulator::faults::{Fault, Rule};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{
    ACCESS_KEY, BUCKET, Endpoint, MINUTE, Mount, SECRET_KEY, commit, deadline, dssefs, eventually, needs_root, noise,
    scenario,
};

mod relay;
mod tunnel;

use relay::Relay;
use tunnel::{TlsStore, Tunnel};

/// An address of this host that is not the loopback: to dssefs it is the network. No packet is sent to find it.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    socket.local_addr().map(|address| address.ip()).ok().filter(|address| !address.is_loopback())
}

/// Records whatever arrives, and answers nothing that is of use.
struct Recorder {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    done: Arc<AtomicBool>,
}

impl Recorder {
    fn on(address: SocketAddr) -> Recorder {
        let listener = TcpListener::bind(address).expect("an address of this host");
        let address = listener.local_addr().unwrap();
        let (heard, done) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<AtomicBool>::default());
        let (sink, end) = (Arc::clone(&heard), Arc::clone(&done));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let sink = Arc::clone(&sink);
                thread::spawn(move || record(stream, &sink));
            }
        });
        Recorder { address, heard, done }
    }

    fn heard(&self) -> String {
        // What was sent before a program ended may still be on its way through the socket.
        thread::sleep(Duration::from_millis(100));
        String::from_utf8_lossy(&self.heard.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn record(mut stream: TcpStream, sink: &Mutex<Vec<u8>>) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        sink.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
    }
}

/// `dssefs doctor`, without credentials and without an endpoint.
fn doctor() -> Command {
    let mut command = dssefs();
    command.args(["doctor", BUCKET, "--region", "us-east-1", "--attempts", "1", "--attempt-timeout", "5s"]);
    command.args(["--spill-dir", "/nonexistent/dssefs"]);
    command
}

fn with_keys(mut command: Command) -> Command {
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    command
}

fn of(output: &Output) -> (i32, String) {
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code().expect("an exit code"), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_token_of_web_identity_does_not_go_out_in_the_clear() {
    deadline(MINUTE * 2, || {
        let Some(own) = own_address() else {
            println!("skipped: this host has no address beside the loopback");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let [token, config] = ["token", "config"].map(|name| dir.path().join(name));
        fs::write(&token, "the-secret-token").unwrap();
        let role = "arn:aws:iam::111122223333:role/r";
        let by_environment = |url: &str, variable: &str| {
            let mut command = doctor();
            command.env("AWS_WEB_IDENTITY_TOKEN_FILE", &token).env("AWS_ROLE_ARN", role).env(variable, url);
            command
        };
        // That the token goes anywhere at all.
        let near = Recorder::on("127.0.0.1:0".parse().unwrap());
        by_environment(&format!("http://{}", near.address), "AWS_ENDPOINT_URL_STS").output().unwrap();
        assert!(near.heard().contains("the-secret-token"), "{}", near.heard());

        let far = Recorder::on(SocketAddr::new(own, 0));
        let url = format!("http://{}", far.address);
        for variable in ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"] {
            for insecure in [false, true] {
                let mut command = by_environment(&url, variable);
                if insecure {
                    command.arg("--allow-insecure-endpoint");
                }
                let (code, said) = of(&command.output().unwrap());
                assert_eq!(code, 2, "{variable} {insecure}: {said}");
                assert!(said.contains(&url) && said.contains("in the clear"), "{said}");
            }
        }
        let of_profile = format!(
            "[profile web]\nrole_arn = {role}\nweb_identity_token_file = {}\nservices = far\n\
             [services far]\nsts =\n\x20 endpoint_url = {url}\n",
            token.display()
        );
        fs::write(&config, of_profile).unwrap();
        for named in [true, false] {
            let mut command = doctor();
            command.env("AWS_CONFIG_FILE", &config);
            if named {
                command.args(["--profile", "web"]);
            } else {
                command.env("AWS_PROFILE", "web");
            }
            let (code, said) = of(&command.output().unwrap());
            assert_eq!(code, 2, "{said}");
            assert!(said.contains(&url), "{said}");
        }
        assert_eq!(far.heard(), "");
    });
}

#[test]
fn other_credentials_are_not_fetched_in_the_clear() {
    deadline(MINUTE * 2, || {
        let Some(own) = own_address() else {
            println!("skipped: this host has no address beside the loopback");
            return;
        };
        let far = Recorder::on(SocketAddr::new(own, 0));
        let url = format!("http://{}", far.address);
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config");
        let key = "aws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = secret";
        let text = format!(
            "[profile base]\n{key}\n[profile role]\n\
             role_arn = arn:aws:iam::111122223333:role/r\nsource_profile = base\n"
        );
        fs::write(&config, text).unwrap();
        let variants: [&[(&str, &str)]; 4] = [
            &[
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{url}/c")),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "secret"),
            ],
            &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url), ("AWS_EC2_METADATA_DISABLED", "false")],
            &[("AWS_PROFILE", "role"), ("AWS_ENDPOINT_URL_STS", &url)],
            &[("DSSEFS_PROFILE", "role"), ("AWS_ENDPOINT_URL", &url)],
        ];
        for variables in variants {
            for insecure in [false, true] {
                let mut command = doctor();
                command.env("AWS_CONFIG_FILE", &config).envs(variables.iter().copied());
                if insecure {
                    command.arg("--allow-insecure-endpoint");
                }
                let (code, said) = of(&command.output().unwrap());
                assert!(matches!(code, 2 | 6), "{variables:?}: {code}: {said}");
            }
        }
        assert_eq!(far.heard(), "");
    });
}

#[test]
fn content_does_not_go_in_the_clear_to_what_a_variable_or_a_profile_names() {
    deadline(MINUTE * 2, || {
        let Some(own) = own_address() else {
            println!("skipped: this host has no address beside the loopback");
            return;
        };
        let far = Recorder::on(SocketAddr::new(own, 0));
        let url = format!("http://{}", far.address);
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config");
        let text = format!(
            "[profile plain]\nendpoint_url = {url}\n[profile parts]\nservices = far\n\
             [services far]\ns3 =\n\x20 endpoint_url = {url}\n"
        );
        fs::write(&config, text).unwrap();
        let variants = [
            ("AWS_ENDPOINT_URL", url.as_str()),
            ("AWS_ENDPOINT_URL_S3", url.as_str()),
            ("AWS_PROFILE", "plain"),
            ("AWS_PROFILE", "parts"),
        ];
        for (variable, value) in variants {
            let mut command = with_keys(doctor());
            let (code, said) = of(&command.env("AWS_CONFIG_FILE", &config).env(variable, value).output().unwrap());
            assert_eq!(code, 2, "{variable}={value}: {said}");
            assert!(said.contains(&url) && said.contains("in the clear"), "{said}");
            assert!(!said.contains("Signature Version 4"), "{said}");
        }
        for tricky in [
            format!("http://127.0.0.1@{}/", far.address),
            format!("http://127.0.0.1:80@{}/", far.address),
            format!("http://{}#@127.0.0.1", far.address),
            format!("http://{}\\@127.0.0.1", far.address),
        ] {
            let mut command = with_keys(doctor());
            let (code, said) = of(&command.args(["--endpoint-url", &tricky]).output().unwrap());
            assert_eq!(code, 2, "{tricky}: {said}");
            let mut command = with_keys(doctor());
            let (code, said) = of(&command.env("AWS_ENDPOINT_URL_S3", &tricky).output().unwrap());
            assert_ne!(code, 0, "{tricky}: {said}");
        }
        assert_eq!(far.heard(), "");
        let mut command = with_keys(doctor());
        command.args(["--endpoint-url", &url, "--force-path-style", "--allow-insecure-endpoint"]).output().unwrap();
        assert!(far.heard().contains(BUCKET), "with the option it goes there: {}", far.heard());
    });
}

#[test]
fn localhost_is_this_host_whatever_its_name_resolves_to() {
    if needs_root("it needs a mount namespace with another /etc/hosts") {
        return;
    }
    deadline(MINUTE * 2, || {
        let Some(own) = own_address() else {
            println!("skipped: this host has no address beside the loopback");
            return;
        };
        let endpoint = Endpoint::start();
        let port: u16 = endpoint.url().rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap();
        let far = Recorder::on(SocketAddr::new(own, port));
        let hosts = tempfile::NamedTempFile::new().unwrap();
        fs::write(hosts.path(), format!("{own} localhost tests.localhost store.localhost\n")).unwrap();
        for (host, style) in [("localhost", true), ("LOCALHOST.", true), ("localhost", false), ("localhost.", false)] {
            let program = with_keys(doctor());
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-euc", "mount --bind \"$1\" /etc/hosts; shift; exec \"$@\"", "sh"]);
            command.arg(hosts.path()).arg(program.get_program()).args(program.get_args());
            for (name, value) in program.get_envs() {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            let url = format!("http://{host}:{port}");
            command.args(["--endpoint-url", &url, "--kms-endpoint-url", &url, "--kms-key-id", endpoint.key_arn()]);
            if style {
                command.arg("--force-path-style");
            }
            let (code, said) = of(&command.output().unwrap());
            // The embedded endpoint takes no bucket from a name with a closing dot.
            assert!(code == 0 || (host == "localhost." && !style), "{host}: {said}");
            assert_eq!(far.heard(), "", "{host}");
        }
    });
}

/// A firewall that forgets answers RST on every idle connection, as soon as it is used.
#[test]
fn connections_that_a_firewall_has_forgotten_are_no_failed_tries() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let relay = Relay::to(&endpoint.url());
        for name in 0..20 {
            endpoint.put(&format!("old{name}"), &noise(name, 3_000));
        }
        endpoint.put("new", b"content");
        let mount = relay.mount(&endpoint, &["--attempts", "1"]);
        for round in 0..2 {
            // So slow that each has a connection of its own.
            endpoint.inject_faults(vec![Rule::on("GetObject", Fault::DelayMs(700)).times(0)]);
            thread::scope(|scope| {
                for name in (0..20).filter(|name| name % 2 == round) {
                    let path = mount.join(&format!("old{name}"));
                    scope.spawn(move || assert_eq!(fs::read(path).unwrap(), noise(name, 3_000)));
                }
            });
            endpoint.clear_faults();
            let forgotten = relay.forget();
            assert!(forgotten > 8, "{forgotten} connections");
            let name = format!("written{round}");
            let ((), counters) = endpoint.counted(|| commit(&mount.join(&name), b"content").unwrap());
            assert_eq!(counters.requests("PutObject"), 1);
            assert_eq!(fs::read(mount.join("new")).unwrap(), b"content");
            endpoint.assert_dsse(&name);
        }
        assert!(relay.resets() >= 2, "{} connections were found dead", relay.resets());
    });
}

/// The first copy was carried out, and the connection was reset before its answer came: the second copy is refused
/// because of the first.
#[test]
fn a_write_whose_first_copy_succeeded_on_a_dead_connection_is_no_other_writer() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let relay = Relay::to(&endpoint.url());
        let mount = relay.mount(&endpoint, &["--attempts", "1"]);
        let mut copies = 0;
        for round in 0..3 {
            let name = format!("file{round}");
            let content = noise(round, 5_000);
            relay.lose_the_answer_to(&format!("PUT /{BUCKET}/{name}"));
            let ((), counters) = endpoint.counted(|| commit(&mount.join(&name), &content).unwrap());
            copies += counters.requests("PutObject");
            assert_eq!(fs::read(mount.join(&name)).unwrap(), content);
            endpoint.assert_dsse(&name);
        }
        // One that went out by a new connection is not sent again by itself, but looked up.
        assert!((4..=6).contains(&copies), "{copies} copies of three");
        assert_eq!(relay.lost(), 3);
    });
}

#[test]
fn a_host_that_refuses_connections_and_a_name_without_an_address_are_named() {
    deadline(MINUTE, || {
        // A port that was free a moment ago, and on which nobody listens now.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = format!("http://{free}");
        let (code, said) =
            of(&with_keys(doctor()).args(["--endpoint-url", &url, "--force-path-style"]).output().unwrap());
        assert_eq!(code, 6, "{said}");
        assert!(said.contains(&free.to_string()) && said.contains("refused"), "{said}");
        let url = "https://store.dssefs-test.invalid";
        let (code, said) =
            of(&with_keys(doctor()).args(["--endpoint-url", url, "--force-path-style"]).output().unwrap());
        assert_eq!(code, 6, "{said}");
        assert!(said.contains("the name store.dssefs-test.invalid cannot be resolved"), "{said}");
        assert!(!said.contains(".."), "{said}");
    });
}

#[test]
fn https_goes_through_the_proxy_that_the_environment_names() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let store = TlsStore::before(&endpoint.url(), "store.example");
        let tunnel = Tunnel::to(store.address);
        let ask = |variables: &[(&str, &str)]| {
            let mut command = with_keys(doctor());
            command.args(["--endpoint-url", "https://store.example", "--kms-endpoint-url", "https://store.example"]);
            command.args(["--force-path-style", "--kms-key-id", endpoint.key_arn(), "--ca-bundle"]).arg(store.ca());
            of(&command.envs(variables.iter().copied()).output().unwrap())
        };
        let proxy = format!("http://someone:the-password@{}", tunnel.address);
        for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
            let (code, said) = ask(&[(variable, &proxy)]);
            assert_eq!(code, 0, "{variable}: {said}");
            assert!(!said.contains("the-password"), "{said}");
            let heard = tunnel.take();
            assert!(heard.contains("CONNECT store.example:443") && heard.contains("roxy-"), "{heard}");
            assert!(!heard.contains(BUCKET), "a proxy sees no request: {heard}");
        }
        for exception in ["store.example", ".example", "*.example", "*", "other, store.example:443"] {
            let (code, said) = ask(&[("HTTPS_PROXY", &proxy), ("NO_PROXY", exception)]);
            assert_eq!((code, tunnel.take().as_str()), (6, ""), "{exception}: {said}");
        }
        let (code, said) = ask(&[("HTTPS_PROXY", "socks5://someone:the-password@127.0.0.1:1")]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("HTTPS_PROXY") && !said.contains("the-password"), "{said}");
    });
}

#[test]
fn the_loopback_is_never_asked_of_a_proxy_and_the_log_names_the_proxy_without_its_password() {
    scenario().unmounted(|endpoint| {
        let tunnel = Tunnel::to("127.0.0.1:1".parse().unwrap());
        let proxy = format!("http://someone:the-password@{}", tunnel.address);
        let variables = [("HTTPS_PROXY", Some(proxy.as_str())), ("HTTP_PROXY", Some(proxy.as_str()))];
        let mount = Mount::with_environment(&endpoint, &variables, &[]);
        commit(&mount.join("file"), b"content").unwrap();
        let log = mount.log();
        assert!(log.contains(&format!("http://{}", tunnel.address)), "{log}");
        assert!(!log.contains("the-password"), "{log}");
        assert_eq!(tunnel.take(), "");
    });
}

#[test]
fn plain_http_through_a_proxy_needs_the_same_word_as_without_one() {
    deadline(MINUTE, || {
        let tunnel = Tunnel::to("127.0.0.1:1".parse().unwrap());
        let proxy = format!("http://{}", tunnel.address);
        let ask = |options: &[&str]| {
            let mut command = with_keys(doctor());
            command.env("AWS_ENDPOINT_URL", "http://store.example").env("HTTP_PROXY", &proxy).args(options);
            of(&command.arg("--force-path-style").output().unwrap())
        };
        let (code, said) = ask(&[]);
        assert_eq!(code, 2, "{said}");
        assert_eq!(tunnel.take(), "");
        ask(&["--allow-insecure-endpoint"]);
        eventually("a request", Duration::from_secs(5), || tunnel.take().contains("http://store.example/"));
    });
}

/// Answers every request in the same way.
fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[test]
fn a_bucket_of_another_region_is_told_with_the_option_to_give() {
    deadline(MINUTE, || {
        for answer in [
            "HTTP/1.1 301 Moved Permanently\r\nx-amz-bucket-region: eu-west-1\r\n\
             connection: close\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 301 Moved Permanently\r\nx-amz-bucket-region: eu-west-1\r\n\
             connection: close\r\ncontent-length: 101\r\n\r\n\
             <Error><Code>PermanentRedirect</Code><Message>Use the specified endpoint, please.</Message></Error>  ",
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 141\r\n\r\n\
             <Error><Code>AuthorizationHeaderMalformed</Code><Message>Expecting another region.</Message>\
             <Region>eu-west-1</Region></Error>                ",
        ] {
            let mut command = with_keys(doctor());
            command.args(["--endpoint-url", &answering(answer), "--force-path-style"]);
            let (code, said) = of(&command.output().unwrap());
            assert_eq!(code, 6, "{said}");
            assert!(said.contains("give --region eu-west-1"), "{said}");
            assert!(!said.contains("Signature Version 4") && !said.contains(".."), "{said}");
        }
    });
}

#[test]
fn a_bucket_whose_name_is_none_of_a_host_is_asked_for_in_the_path() {
    deadline(MINUTE, || {
        for bucket in ["Old_Bucket", "ab", &"A".repeat(255)] {
            let store = Recorder::on("127.0.0.1:0".parse().unwrap());
            let ask = |options: &[&str]| {
                let mut command = with_keys(dssefs());
                command.args(["doctor", bucket, "--region", "us-east-1", "--attempts", "1"]).args(options);
                of(&command.args(["--spill-dir", "/nonexistent/dssefs"]).output().unwrap())
            };
            let (code, said) = ask(&[]);
            assert_eq!(code, 2, "{said}");
            assert!(said.contains("--endpoint-url") && said.contains("--force-path-style"), "{said}");
            ask(&["--endpoint-url", &format!("http://localhost:{}", store.address.port())]);
            assert!(store.heard().contains(&format!("GET /{bucket}")), "{}", store.heard());
        }
    });
}

#[test]
fn what_is_no_bucket_and_no_key_is_refused_at_once_with_what_to_give() {
    deadline(MINUTE, || {
        let refused = |source: &str, options: &[&str], words: &[&str]| {
            let mut command = with_keys(dssefs());
            // No store is asked: nobody listens there.
            command.args(["doctor", source, "--region", "us-east-1", "--endpoint-url", "http://127.0.0.1:1"]);
            let (code, said) = of(&command.args(options).output().unwrap());
            assert_eq!(code, 2, "{source} {options:?}: {said}");
            assert!(words.iter().all(|word| said.contains(word)), "{words:?} should be in: {said}");
            assert!(!said.contains(".."), "{said}");
        };
        for url in ["https://bucket.s3.eu-west-1.amazonaws.com/p", "https://s3.eu-west-1.amazonaws.com/bucket"] {
            refused(url, &[], &["is a URL", "--endpoint-url"]);
        }
        refused("arn:aws:s3:::bucket", &[], &["give the bucket's name, \"bucket\""]);
        refused("arn:aws:s3:::bucket/prefix", &[], &["the ARN of a bucket"]);
        refused("arn:aws:s3::111122223333:accesspoint/m1a.mrap", &[], &["Multi-Region"]);
        refused("arn:aws:s3-outposts:us-west-2:111122223333:outpost/op-1/accesspoint/x", &[], &["Outpost"]);
        let bad_keys = [
            "arn:aws:s3:::x",
            "arn:aws:kms:us-east-1:111122223333:grant/x",
            "arn:aws:kms:us-east-1:111122223333:",
            "arn:aws:iam::111122223333:role/r",
            "aws/s3",
            "a key",
        ];
        for key in bad_keys {
            refused("bucket", &["--kms-key-id", key], &["--kms-key-id", "alias/NAME"]);
        }
    });
}

/// The first message of TLS, as a server reads it: the handshake without the header of its record (RFC 8446, 5.1).
fn client_hello(listener: &TcpListener) -> Vec<u8> {
    let (mut stream, _) = listener.accept().unwrap();
    let mut header = [0; 5];
    stream.read_exact(&mut header).unwrap();
    let mut handshake = vec![0; u16::from_be_bytes([header[3], header[4]]).into()];
    stream.read_exact(&mut handshake).unwrap();
    handshake
}

/// The numbers in an extension of the client's first message (RFC 8446, 4.1.2), whose list has a length of
/// `length_bytes`.
fn numbers_in(hello: &[u8], extension: u16, length_bytes: usize) -> Vec<u16> {
    let number = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
    // Behind type, length, version and random: the session, the ciphers, the compressions, the extensions.
    let mut rest = &hello[4 + 2 + 32..];
    rest = &rest[1 + usize::from(rest[0])..];
    rest = &rest[2 + usize::from(number(rest))..];
    rest = &rest[1 + usize::from(rest[0]) + 2..];
    while !rest.is_empty() {
        let (kind, length) = (number(rest), usize::from(number(&rest[2..])));
        if kind == extension {
            return rest[4 + length_bytes..4 + length].chunks_exact(2).map(number).collect();
        }
        rest = &rest[4 + length..];
    }
    Vec::new()
}

#[test]
fn tls_1_3_and_1_2_with_a_hybrid_key_exchange_are_offered_and_nothing_older() {
    const SUPPORTED_GROUPS: u16 = 10;
    const SUPPORTED_VERSIONS: u16 = 43;
    const X25519MLKEM768: u16 = 0x11EC;
    deadline(MINUTE, || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let heard = thread::spawn(move || client_hello(&listener));
        with_keys(doctor()).args(["--endpoint-url", &url]).output().unwrap();
        let hello = heard.join().unwrap();
        assert_eq!(numbers_in(&hello, SUPPORTED_VERSIONS, 1), [0x0304, 0x0303]);
        let groups = numbers_in(&hello, SUPPORTED_GROUPS, 2);
        assert!(groups.contains(&X25519MLKEM768), "{groups:x?}");
    });
}

#[test]
fn what_kms_is_asked_does_not_go_in_the_clear_to_what_a_variable_names() {
    deadline(MINUTE * 2, || {
        let Some(own) = own_address() else {
            println!("skipped: this host has no address beside the loopback");
            return;
        };
        let endpoint = Endpoint::start();
        let far = Recorder::on(SocketAddr::new(own, 0));
        let url = format!("http://{}", far.address);
        let ask = |insecure: bool| {
            let mut command = with_keys(doctor());
            command.args(["--endpoint-url", &endpoint.url(), "--force-path-style", "--kms-key-id", "alias/any"]);
            command.args(insecure.then_some("--allow-insecure-endpoint"));
            of(&command.env("AWS_ENDPOINT_URL_KMS", &url).output().unwrap())
        };
        let (code, said) = ask(false);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(&url) && said.contains("in the clear"), "{said}");
        assert_eq!(far.heard(), "");
        ask(true);
        assert!(far.heard().contains("alias/any"), "with the option it goes there: {}", far.heard());
    });
}

#[test]
fn at_most_64_connections_wait_for_a_request_and_none_is_used_after_30_seconds() {
    const READERS: u64 = 90;
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        let relay = Relay::to(&endpoint.url());
        for name in 0..READERS {
            endpoint.put(&format!("{name}"), &noise(name, 3_000));
        }
        let mount = relay.mount(&endpoint, &[]);
        // So slow that each has a connection of its own.
        endpoint.inject_faults(vec![Rule::on("GetObject", Fault::DelayMs(3_000)).times(0)]);
        let most = thread::scope(|scope| {
            for name in 0..READERS {
                let path = mount.join(&format!("{name}"));
                scope.spawn(move || assert_eq!(fs::read(path).unwrap(), noise(name, 3_000)));
            }
            let sample = |_| {
                thread::sleep(Duration::from_millis(20));
                relay.open()
            };
            (0..150).map(sample).max().unwrap()
        });
        assert!(most > 64, "{most} connections at the same time are too few to see a limit");
        eventually("no more than 64 wait", Duration::from_secs(10), || relay.open() <= 64);
        endpoint.clear_faults();
        let (waiting, made) = (relay.open(), relay.made());
        assert!(waiting > 32, "{waiting} connections wait for the next request");
        commit(&mount.join("soon"), b"content").unwrap();
        assert_eq!(relay.made(), made, "a connection that waits is used");
        thread::sleep(Duration::from_secs(32));
        commit(&mount.join("later"), b"content").unwrap();
        assert!(relay.made() > made, "those that waited for too long are not used");
        eventually("they are closed", Duration::from_secs(10), || relay.open() < 8);
        assert!(mount.end().success());
    });
}

/// A daemon in the foreground, which goes away with its mount whatever happens.
struct Daemon {
    child: Child,
    point: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = unmount(&self.point, UnmountFlags::DETACH);
    }
}

/// The buffers of a connection that is kept could hold a data key.
#[test]
fn each_request_to_kms_has_a_connection_of_its_own_that_is_closed_behind_the_answer() {
    deadline(MINUTE * 2, || {
        let (endpoint, dir) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let relay = Relay::to(&endpoint.url());
        let point = dir.path().join("mnt");
        fs::create_dir(&point).unwrap();
        let mut command = with_keys(dssefs());
        command.arg("mount").arg(BUCKET).arg(&point).args(["--foreground", "--region", "us-east-1"]);
        command.args(["--force-path-style", "--endpoint-url", &endpoint.url(), "--kms-endpoint-url", relay.url()]);
        command.args(["--kms-key-id", endpoint.key_arn(), "--spill-keys", "kms", "--spill-key-lifetime", "1s"]);
        let child = command.arg("--spill-dir").arg(dir.path().join("spill")).spawn().unwrap();
        let mut daemon = Daemon { child, point };
        let asked = || endpoint.counters().kms_direct.values().sum::<u64>();
        eventually("KMS has given keys again and again", MINUTE, || asked() >= 6);
        eventually("no connection stays open", Duration::from_secs(5), || relay.open() == 0);
        kill_process(Pid::from_child(&daemon.child), Signal::TERM).unwrap();
        assert!(daemon.child.wait().unwrap().success());
        assert_eq!(relay.made() as u64, asked(), "connections and requests");
    });
}
