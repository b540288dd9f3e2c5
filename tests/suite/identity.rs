//! As whom the store is asked: the same sources of credentials as the AWS CLI, in its order, and never another one
//! unnoticed.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use crate::common::{ACCESS_KEY, BUCKET, Endpoint, MINUTE, Mount, SECRET_KEY, commit, dssefs, eventually, scenario};

/// The two files of AWS profiles in a directory of their own.
struct Profiles(TempDir);

impl Profiles {
    fn new(config: &str, credentials: &str) -> Profiles {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config"), config).unwrap();
        fs::write(dir.path().join("credentials"), credentials).unwrap();
        Profiles(dir)
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("config")
    }

    fn credentials(&self) -> PathBuf {
        self.0.path().join("credentials")
    }

    /// `dssefs doctor` on the endpoint with these files, without any other credentials.
    fn doctor(&self, endpoint: &Endpoint) -> Command {
        self.doctor_of(endpoint, BUCKET)
    }

    fn doctor_of(&self, endpoint: &Endpoint, source: &str) -> Command {
        let mut command = dssefs();
        command.args([
            "doctor",
            source,
            "--force-path-style",
            "--region",
            "us-east-1",
            "--kms-key-id",
            endpoint.key_arn(),
        ]);
        command.args(["--endpoint-url", &endpoint.url(), "--kms-endpoint-url", &endpoint.url()]);
        command.arg("--spill-dir").arg(self.0.path().join("spill"));
        command.env("AWS_CONFIG_FILE", self.config()).env("AWS_SHARED_CREDENTIALS_FILE", self.credentials());
        command
    }
}

fn section(name: &str, key: &str, secret: &str) -> String {
    format!("[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
}

fn of(output: &Output) -> (i32, String) {
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code().expect("an exit code"), String::from_utf8_lossy(&said).into_owned())
}

fn assert_names(said: &str, paths: &[&Path]) {
    for path in paths {
        assert!(said.contains(path.to_str().unwrap()), "{} should be named in: {said}", path.display());
    }
}

#[test]
fn a_profile_that_is_named_wins_over_keys_in_the_environment() {
    scenario().unmounted(|endpoint| {
        let profiles = Profiles::new("", &section("good", ACCESS_KEY, SECRET_KEY));
        let wrong = |command: &mut Command| {
            command.env("AWS_ACCESS_KEY_ID", "AKIAWRONG").env("AWS_SECRET_ACCESS_KEY", "wrong");
        };
        let mut by_option = profiles.doctor(&endpoint);
        wrong(by_option.args(["--profile", "good"]));
        let mut by_variable = profiles.doctor(&endpoint);
        wrong(by_variable.env("DSSEFS_PROFILE", "good"));
        for command in [&mut by_option, &mut by_variable] {
            let (code, said) = of(&command.output().unwrap());
            assert_eq!(code, 0, "{said}");
        }
        // AWS_PROFILE is no explicit name: keys in the environment win over it, as in the AWS CLI.
        let mut ambient = profiles.doctor(&endpoint);
        wrong(ambient.env("AWS_PROFILE", "good"));
        assert_eq!(of(&ambient.output().unwrap()).0, 6);
        let mut ambient = profiles.doctor(&endpoint);
        ambient.env("AWS_PROFILE", "good");
        assert_eq!(of(&ambient.output().unwrap()).0, 0);
    });
}

#[test]
fn a_profile_that_does_not_exist_is_code_2_and_the_files_are_named() {
    scenario().unmounted(|endpoint| {
        let profiles = Profiles::new("[profile other]\nregion = us-east-1\n", &section("good", ACCESS_KEY, SECRET_KEY));
        for (option, variable) in [(true, ""), (false, "DSSEFS_PROFILE"), (false, "AWS_PROFILE")] {
            let mut command = profiles.doctor(&endpoint);
            command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
            if option {
                command.args(["--profile", "mising"]);
            } else {
                command.env(variable, "mising");
            }
            let (code, said) = of(&command.output().unwrap());
            assert_eq!(code, 2, "{variable}: {said}");
            assert!(said.contains("there is no profile \"mising\""), "{said}");
            assert_names(&said, &[&profiles.config(), &profiles.credentials()]);
        }
        assert_eq!(endpoint.counters().all_requests(), 0, "nothing was asked of the store");
    });
}

#[test]
fn a_profile_whose_source_does_not_exist_is_an_error_and_not_the_keys_of_the_environment() {
    scenario().unmounted(|endpoint| {
        let role = "[profile role]\nrole_arn = arn:aws:iam::111122223333:role/r\nsource_profile = gone\n";
        let profiles = Profiles::new(role, "");
        let mut command = profiles.doctor(&endpoint);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        let (code, said) = of(&command.args(["--profile", "role"]).output().unwrap());
        assert_eq!(code, 6, "{said}");
        assert!(said.contains("gone"), "{said}");
        assert_eq!(endpoint.counters().all_requests(), 0, "nothing was asked of the store");
    });
}

#[test]
fn half_an_access_key_in_the_environment_is_code_2() {
    scenario().unmounted(|endpoint| {
        // The SDK would go on to this profile, and then to the instance's role.
        let profiles = Profiles::new("", &section("default", ACCESS_KEY, SECRET_KEY));
        for (set, missing) in
            [("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")]
        {
            let (code, said) = of(&profiles.doctor(&endpoint).env(set, "value").output().unwrap());
            assert_eq!(code, 2, "{said}");
            assert!(said.contains(&format!("{set} is set in the environment and {missing} is not")), "{said}");
        }
        let blank = of(&profiles.doctor(&endpoint).env("AWS_ACCESS_KEY_ID", "").output().unwrap());
        assert_eq!(blank.0, 0, "an empty variable is none: {}", blank.1);
        let mut named = profiles.doctor(&endpoint);
        let named = of(&named.env("AWS_ACCESS_KEY_ID", "value").args(["--profile", "default"]).output().unwrap());
        assert_eq!(named.0, 0, "the environment is not asked: {}", named.1);
    });
}

#[test]
fn the_log_tells_the_source_of_credentials_and_four_characters_of_the_key() {
    scenario().mounted(|endpoint, mount| {
        let log = mount.log();
        assert!(log.contains("keys in the environment"), "{log}");
        assert!(!log.contains(SECRET_KEY), "{log}");
        drop(mount);
        let profiles = Profiles::new("", &section("good", ACCESS_KEY, SECRET_KEY));
        let variables = [
            ("AWS_ACCESS_KEY_ID", None),
            ("AWS_SECRET_ACCESS_KEY", None),
            ("AWS_SHARED_CREDENTIALS_FILE", profiles.credentials().to_str().map(str::to_owned)),
        ];
        let variables: Vec<(&str, Option<&str>)> =
            variables.iter().map(|(name, value)| (*name, value.as_deref())).collect();
        let mount = Mount::with_environment(&endpoint, &variables, &["--profile", "good"]);
        let log = mount.log();
        assert!(log.contains("a profile") && log.contains("AWS credentials were found"), "{log}");
        assert!(!log.contains(SECRET_KEY), "{log}");
    });
}

/// A container's source of credentials, which are as good as those of the profile.
fn container() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/credentials", listener.local_addr().unwrap());
    let body = format!(
        "{{\"AccessKeyId\":\"{ACCESS_KEY}\",\"SecretAccessKey\":\"{SECRET_KEY}\",\
             \"Token\":\"\",\"Expiration\":\"2099-01-01T00:00:00Z\"}}"
    );
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[test]
fn a_container_gives_credentials_where_neither_environment_nor_profile_does() {
    scenario().unmounted(|endpoint| {
        let profiles = Profiles::new("[profile bare]\nregion = us-east-1\n", "");
        for options in [&[][..], &["--profile", "bare"]] {
            let mut command = profiles.doctor(&endpoint);
            command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", container()).args(options);
            let (code, said) = of(&command.output().unwrap());
            assert_eq!(code, 0, "{options:?}: {said}");
        }
    });
}

/// A tool that writes the file again empties it first. What is found meanwhile is another identity.
#[test]
fn a_mount_whose_profile_is_gone_uses_no_other_credentials() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let profiles = Profiles::new("", &section("default", ACCESS_KEY, SECRET_KEY));
        let (file, container) = (profiles.credentials(), container());
        let file_text = file.to_str().unwrap().to_owned();
        let variables = [
            ("AWS_ACCESS_KEY_ID", None),
            ("AWS_SECRET_ACCESS_KEY", None),
            ("AWS_SHARED_CREDENTIALS_FILE", Some(file_text.as_str())),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", Some(container.as_str())),
        ];
        let mount = Mount::with_environment(&endpoint, &variables, &["--attempts", "1"]);
        commit(&mount.join("file"), b"content").unwrap();
        fs::write(&file, "").unwrap();
        // Credentials are looked at again after ten to twenty seconds.
        eventually("a failure", Duration::from_secs(40), || commit(&mount.join("other"), b"x").is_err());
        fs::write(&file, section("default", ACCESS_KEY, SECRET_KEY)).unwrap();
        eventually("the profile", Duration::from_secs(40), || commit(&mount.join("more"), b"x").is_ok());
    });
}
