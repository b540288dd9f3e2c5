//! `dssefs serve` as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

use aws_sdk_s3::Client;
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{ACCESS_KEY, MINUTE, SECRET_KEY, client, deadline, dssefs};

/// A running `dssefs serve`, and what it printed.
struct Serve {
    process: Child,
    lines: Vec<String>,
}

impl Serve {
    fn start(options: &[&str]) -> Serve {
        Serve::start_under(&[], options)
    }

    /// The same, started by another program, such as one that sets a umask.
    fn start_under(starter: &[&str], options: &[&str]) -> Serve {
        let mut command = dssefs();
        if let Some((first, arguments)) = starter.split_first() {
            let program = command.get_program().to_owned();
            command = std::process::Command::new(first);
            command.args(arguments).arg(program);
        }
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(options).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let mut lines = Vec::new();
        for line in stdout.lines() {
            lines.push(line.unwrap());
            if lines.last().is_some_and(|line| line.contains("AWS_REGION")) {
                break;
            }
        }
        Serve { process, lines }
    }

    fn url(&self) -> String {
        self.lines[0].strip_prefix("serving S3 and KMS at ").expect("the first line is the URL").to_owned()
    }

    /// The value of an `export NAME=VALUE` line.
    fn exported(&self, name: &str) -> String {
        let prefix = format!("export {name}=");
        self.lines
            .iter()
            .find_map(|line| line.strip_prefix(&prefix))
            .unwrap_or_else(|| panic!("{:?}", self.lines))
            .to_owned()
    }

    fn client(&self) -> Client {
        client(&self.url())
    }

    fn data(&self) -> String {
        let path =
            |line: &String| Some(line.strip_prefix("# content rests in the clear in ")?.split_once(": ")?.0.to_owned());
        self.lines.iter().find_map(path).expect("the line of the directory")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn it_says_how_to_reach_it_and_cleans_up_after_itself() {
    deadline(MINUTE, || {
        let mut serve = Serve::start(&["--bucket", "one", "--bucket", "two"]);
        assert_eq!(serve.exported("AWS_ENDPOINT_URL"), serve.url());
        assert_eq!(
            (serve.exported("AWS_ACCESS_KEY_ID"), serve.exported("AWS_SECRET_ACCESS_KEY")),
            (ACCESS_KEY.into(), SECRET_KEY.into())
        );
        let buckets = block_on(serve.client().list_buckets().send()).unwrap();
        assert_eq!(buckets.buckets().iter().filter_map(|bucket| bucket.name()).collect::<Vec<_>>(), ["one", "two"]);
        let data = serve.data();
        assert!(Path::new(&data).is_dir(), "{data}");
        serve.signal(Signal::INT);
        assert!(serve.process.wait().unwrap().success());
        assert!(!Path::new(&data).exists(), "the temporary directory is gone");
    });
}

#[test]
fn named_data_survives_a_kill() {
    deadline(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let options = ["--bucket", "kept", "--data", dir.path().to_str().unwrap()];
        let serve = Serve::start(&options);
        block_on(serve.client().put_object().bucket("kept").key("a//b").body(b"content".to_vec().into()).send())
            .unwrap();
        serve.signal(Signal::KILL);
        drop(serve);
        let serve = Serve::start(&options);
        let got = block_on(async {
            let got = serve.client().get_object().bucket("kept").key("a//b").send().await.unwrap();
            got.body.collect().await.unwrap().into_bytes().to_vec()
        });
        assert_eq!(got, b"content");
    });
}

#[test]
fn it_stays_on_this_host_unless_told_otherwise() {
    deadline(MINUTE, || {
        let output = dssefs().args(["serve", "--listen", "0.0.0.0:0"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let output = dssefs().args(["serve", "--faults", "/no/such/file"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    });
}

/// The modes of `path` and of everything below it.
fn modes(path: &Path) -> Vec<(std::path::PathBuf, u32)> {
    let facts = std::fs::symlink_metadata(path).unwrap();
    let mut all = vec![(path.to_owned(), facts.permissions().mode() & 0o7777)];
    if facts.is_dir() {
        all.extend(std::fs::read_dir(path).unwrap().flat_map(|entry| modes(&entry.unwrap().path())));
    }
    all
}

#[test]
fn what_it_stores_is_closed_to_other_users_whatever_the_umask() {
    deadline(MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let (made, given) = (dir.path().join("made"), dir.path().join("given"));
        std::fs::create_dir(&given).unwrap();
        std::fs::set_permissions(&given, std::fs::Permissions::from_mode(0o777)).unwrap();
        for data in [made, given] {
            let umask = ["sh", "-euc", "umask 0; exec \"$@\"", "sh"];
            let serve = Serve::start_under(&umask, &["--data", data.to_str().unwrap(), "--bucket", "data", "--tls"]);
            drop(serve);
            let serve = Serve::start_under(&umask, &["--data", data.to_str().unwrap()]);
            let s3 = serve.client();
            block_on(async {
                let body = vec![b'x'; 100].into();
                s3.put_object().bucket("data").key("whole").body(body).send().await.unwrap();
                let upload = s3.create_multipart_upload().bucket("data").key("parts").send().await.unwrap();
                let part = s3.upload_part().bucket("data").key("parts").upload_id(upload.upload_id().unwrap());
                part.part_number(1).body(vec![b'x'; 100].into()).send().await.unwrap();
                s3.copy_object().bucket("data").key("copy").copy_source("data/whole").send().await.unwrap();
            });
            let all = modes(&data);
            assert!(all.len() > 10, "{all:?}");
            for (path, mode) in all {
                assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
            }
        }
    });
}

/// What the endpoint answers to this request, in the words of HTTP.
fn ask(url: &str, head: &str) -> String {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn its_own_addresses_ask_for_the_key_and_refuse_other_sites_and_names() {
    deadline(MINUTE, || {
        let serve = Serve::start(&["--access-key", "someone", "--secret-key", "a secret"]);
        let url = serve.url();
        let (host, port) =
            (url.strip_prefix("http://").unwrap().to_owned(), url.rsplit_once(':').unwrap().1.to_owned());
        // someone:a secret
        let key = "authorization: Basic c29tZW9uZTphIHNlY3JldA==\r\n";
        let status = |method: &str, host: &str, more: &str| {
            let head =
                format!("{method} /_dssefs/counters/reset HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n{more}");
            ask(&url, &head)[9..12].to_owned()
        };
        assert_eq!(status("POST", &host, key), "200");
        assert_eq!(status("POST", &format!("localhost:{port}"), key), "200");
        assert_eq!(status("POST", &host, ""), "401");
        assert_eq!(status("POST", &host, "authorization: Basic ZHNzZWZzOmRzc2Vmcy1zZWNyZXQ=\r\n"), "401");
        assert_eq!(status("POST", &format!("rebound.example:{port}"), key), "403");
        assert_eq!(status("POST", &host, &format!("{key}origin: http://evil.example\r\n")), "403");
        assert_eq!(status("POST", &host, &format!("{key}sec-fetch-site: cross-site\r\n")), "403");
    });
}
