//! `dssefs serve` as a process.

use std::io::{BufRead, BufReader};
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
        let mut command = dssefs();
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
            got.body.collect().await.unwrap().to_vec()
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
