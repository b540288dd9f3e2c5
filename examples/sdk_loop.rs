//! What a careful program does with the SDK alone: the yardstick of `scripts/bench`.
//!
//! `sdk_loop put BUCKET KEY FILE` uploads in parts of 16 MiB, four at a time; `sdk_loop get BUCKET KEY` reads ranges of
//! 16 MiB, four at a time, and drops them; `sdk_loop delete BUCKET KEY` makes room for the next. Endpoint, Region and
//! credentials come from the environment. Objects are DSSE-KMS.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, ServerSideEncryption};
use aws_smithy_http_client::Builder;
use futures_util::{StreamExt, TryStreamExt, stream};

const PART_BYTES: u64 = 16 << 20;
const AT_A_TIME: usize = 4;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["put", bucket, key, file] => put(bucket, key, file).await,
        ["get", bucket, key] => get(bucket, key).await,
        ["delete", bucket, key] => delete(bucket, key).await,
        _ => Err("usage: sdk_loop put BUCKET KEY FILE | sdk_loop get|delete BUCKET KEY".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr, reason = "an example is a program")]
fn complain(error: &(dyn std::error::Error + Send + Sync)) {
    eprintln!("{error}: {error:?}");
}

fn client() -> Result<Client, Failure> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let credentials =
        Credentials::new(variable("AWS_ACCESS_KEY_ID")?, variable("AWS_SECRET_ACCESS_KEY")?, None, None, "environment");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(variable("AWS_REGION")?))
        .endpoint_url(variable("AWS_ENDPOINT_URL")?)
        .force_path_style(true)
        .credentials_provider(credentials)
        .http_client(Builder::new().build_http());
    Ok(Client::from_conf(config.build()))
}

/// The offset and the length of each part.
fn parts(bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..bytes.div_ceil(PART_BYTES)).map(move |index| (index * PART_BYTES, PART_BYTES.min(bytes - index * PART_BYTES)))
}

async fn put(bucket: &str, key: &str, path: &str) -> Result<(), Failure> {
    let s3 = client()?;
    let file = Arc::new(File::open(path)?);
    let bytes = file.metadata()?.len();
    let created = s3.create_multipart_upload().bucket(bucket).key(key);
    let created = created.server_side_encryption(ServerSideEncryption::AwsKmsDsse).send().await?;
    let id = created.upload_id().ok_or("no upload id")?.to_owned();
    let send = |(number, (offset, length)): (usize, (u64, u64))| {
        let (s3, file, id) = (s3.clone(), Arc::clone(&file), id.clone());
        async move {
            let number = i32::try_from(number + 1)?;
            let content = tokio::task::spawn_blocking(move || {
                let mut content = vec![0; usize::try_from(length)?];
                file.read_exact_at(&mut content, offset)?;
                Ok::<_, Failure>(content)
            });
            let body = ByteStream::new(SdkBody::from(content.await??));
            let part = s3.upload_part().bucket(bucket).key(key).upload_id(id).part_number(number).body(body);
            let part = part.customize().disable_payload_signing().send().await?;
            Ok::<_, Failure>(CompletedPart::builder().part_number(number).set_e_tag(part.e_tag).build())
        }
    };
    let parts: Vec<CompletedPart> =
        stream::iter(parts(bytes).enumerate().map(send)).buffered(AT_A_TIME).try_collect().await?;
    let completed = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    s3.complete_multipart_upload().bucket(bucket).key(key).upload_id(id).multipart_upload(completed).send().await?;
    Ok(())
}

async fn get(bucket: &str, key: &str) -> Result<(), Failure> {
    let s3 = client()?;
    let head = s3.head_object().bucket(bucket).key(key).send().await?;
    let bytes = u64::try_from(head.content_length().unwrap_or_default())?;
    let fetch = |(offset, length): (u64, u64)| {
        let s3 = s3.clone();
        async move {
            let range = format!("bytes={offset}-{}", offset + length - 1);
            let mut body = s3.get_object().bucket(bucket).key(key).range(range).send().await?.body;
            let mut seen = 0;
            while let Some(chunk) = body.try_next().await? {
                seen += chunk.len() as u64;
            }
            Ok::<_, Failure>(seen)
        }
    };
    let seen: Vec<u64> = stream::iter(parts(bytes).map(fetch)).buffered(AT_A_TIME).try_collect().await?;
    if seen.iter().sum::<u64>() == bytes { Ok(()) } else { Err("the object is shorter than its HEAD says".into()) }
}

async fn delete(bucket: &str, key: &str) -> Result<(), Failure> {
    client()?.delete_object().bucket(bucket).key(key).send().await?;
    Ok(())
}
