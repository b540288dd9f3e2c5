//! The KMS API as clients speak it: one JSON document in, one out (AWS JSON 1.1, `X-Amz-Target:
//! TrentService.<Action>`).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Kms;
use super::call_log::Caller;
use super::cipher;
use super::exception::Exception;
use super::key::{Action, Key, Manager, NewKey, Status};

/// The prefix of the action in `X-Amz-Target`.
pub(crate) const TARGET_PREFIX: &str = "TrentService.";

/// The actions of this endpoint.
pub(crate) const ACTIONS: &[&str] = &[
    "DescribeKey",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "Encrypt",
    "Decrypt",
    "CreateKey",
    "EnableKey",
    "DisableKey",
    "ScheduleKeyDeletion",
    "CancelKeyDeletion",
    "CreateAlias",
    "DeleteAlias",
    "ListKeys",
    "ListAliases",
];

/// The most that Encrypt takes, in bytes (KMS API reference).
const PLAINTEXT_BYTES_MAX: usize = 4_096;

/// The longest data key, in bytes (KMS API reference, GenerateDataKey, NumberOfBytes).
const DATA_KEY_BYTES_MAX: usize = 1_024;

type Context = BTreeMap<String, String>;
type Answer = Result<Value, Exception>;

/// Does one call of a client, and counts it. The answer `Null` means an empty body.
///
/// # Errors
/// The exception to answer with.
pub(crate) fn call(kms: &Kms, action: &str, body: &[u8]) -> Answer {
    let request: Value = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    record(kms, action, &request);
    match action {
        "DescribeKey" => describe_key(kms, &read(request)?),
        "GenerateDataKey" => generate_data_key(kms, Action::GenerateDataKey, &read(request)?),
        "GenerateDataKeyWithoutPlaintext" => {
            generate_data_key(kms, Action::GenerateDataKeyWithoutPlaintext, &read(request)?)
        }
        "Encrypt" => encrypt(kms, &read(request)?),
        "Decrypt" => decrypt(kms, &read(request)?),
        "CreateKey" => create_key(kms, read(request)?),
        "EnableKey" => read(request).and_then(|key: KeyOnly| kms.enable(&key.key_id)).map(|()| Value::Null),
        "DisableKey" => read(request).and_then(|key: KeyOnly| kms.disable(&key.key_id)).map(|()| Value::Null),
        "ScheduleKeyDeletion" => schedule_key_deletion(kms, &read(request)?),
        "CancelKeyDeletion" => cancel_key_deletion(kms, &read(request)?),
        "CreateAlias" => create_alias(kms, read(request)?),
        "DeleteAlias" => delete_alias(kms, &read(request)?),
        "ListKeys" => list_keys(kms, &read(request)?),
        "ListAliases" => list_aliases(kms, &read(request)?),
        other => Err(Exception::new("UnknownOperationException", format!("{other} is not part of this endpoint."))),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeyOnly {
    key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DataKeyRequest {
    key_id: String,
    #[serde(default)]
    encryption_context: Context,
    key_spec: Option<String>,
    number_of_bytes: Option<usize>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EncryptRequest {
    key_id: String,
    plaintext: String,
    #[serde(default)]
    encryption_context: Context,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DecryptRequest {
    ciphertext_blob: String,
    key_id: Option<String>,
    #[serde(default)]
    encryption_context: Context,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateKeyRequest {
    #[serde(default)]
    description: String,
    key_spec: Option<String>,
    customer_master_key_spec: Option<String>,
    key_usage: Option<String>,
    origin: Option<String>,
    #[serde(default)]
    multi_region: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeletionRequest {
    key_id: String,
    pending_window_in_days: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AliasRequest {
    alias_name: String,
    target_key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListRequest {
    key_id: Option<String>,
    limit: Option<usize>,
    marker: Option<String>,
}

fn describe_key(kms: &Kms, request: &KeyOnly) -> Answer {
    let key = kms.find(&request.key_id)?;
    key.permit(Action::DescribeKey, &kms.user_arn())?;
    Ok(json!({ "KeyMetadata": metadata(kms, &key) }))
}

fn generate_data_key(kms: &Kms, action: Action, request: &DataKeyRequest) -> Answer {
    let length = data_key_length(request)?;
    let key = usable_by_client(kms, &request.key_id, action, request.dry_run)?;
    let mut plaintext = vec![0; length];
    cipher::fill(&mut plaintext)?;
    let blob = cipher::encrypt(&key.material, &key.id, &request.encryption_context, &plaintext)?;
    let mut answer = json!({ "KeyId": key.arn, "CiphertextBlob": to_base64(&blob) });
    if action == Action::GenerateDataKey {
        answer["Plaintext"] = to_base64(&plaintext).into();
    }
    Ok(answer)
}

fn encrypt(kms: &Kms, request: &EncryptRequest) -> Answer {
    let plaintext = from_base64("Plaintext", &request.plaintext)?;
    if !(1..=PLAINTEXT_BYTES_MAX).contains(&plaintext.len()) {
        return Err(Exception::validation("Plaintext must be 1 to 4096 bytes."));
    }
    let key = usable_by_client(kms, &request.key_id, Action::Encrypt, request.dry_run)?;
    let blob = cipher::encrypt(&key.material, &key.id, &request.encryption_context, &plaintext)?;
    Ok(json!({ "KeyId": key.arn, "CiphertextBlob": to_base64(&blob), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT" }))
}

fn decrypt(kms: &Kms, request: &DecryptRequest) -> Answer {
    let blob = from_base64("CiphertextBlob", &request.ciphertext_blob)?;
    let id = cipher::key_id(&blob)?;
    if let Some(named) = &request.key_id
        && kms.look_up(named, Action::Decrypt.name())?.id != id
    {
        let text = "The key ID in the request does not identify a CMK that can perform this operation.";
        return Err(Exception::new("IncorrectKeyException", text));
    }
    let key = usable_by_client(kms, id, Action::Decrypt, request.dry_run)?;
    let plaintext = cipher::decrypt(&key.material, &request.encryption_context, &blob)?;
    Ok(json!({ "KeyId": key.arn, "Plaintext": to_base64(&plaintext), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT" }))
}

fn create_key(kms: &Kms, request: CreateKeyRequest) -> Answer {
    let standard = NewKey::default();
    let external = match request.origin.as_deref() {
        None | Some("AWS_KMS") => false,
        Some("EXTERNAL") => true,
        Some(other) => return Err(Exception::validation(format!("Origin {other} is not part of this endpoint."))),
    };
    let key = kms.create_key(NewKey {
        description: request.description,
        spec: request.key_spec.or(request.customer_master_key_spec).unwrap_or(standard.spec),
        usage: request.key_usage.unwrap_or(standard.usage),
        external,
        multi_region: request.multi_region,
    })?;
    Ok(json!({ "KeyMetadata": metadata(kms, &key) }))
}

fn schedule_key_deletion(kms: &Kms, request: &DeletionRequest) -> Answer {
    let days = request.pending_window_in_days.unwrap_or(30);
    let at_unix_s = kms.schedule_deletion(&request.key_id, days)?;
    let key = kms.find(&request.key_id)?;
    let state = key.status.name();
    Ok(json!({ "KeyId": key.arn, "DeletionDate": at_unix_s, "KeyState": state, "PendingWindowInDays": days }))
}

fn cancel_key_deletion(kms: &Kms, request: &KeyOnly) -> Answer {
    kms.cancel_deletion(&request.key_id)?;
    Ok(json!({ "KeyId": kms.find(&request.key_id)?.arn }))
}

fn create_alias(kms: &Kms, request: AliasRequest) -> Answer {
    let target = request.target_key_id.ok_or_else(|| Exception::validation("TargetKeyId is missing."))?;
    if target.contains("alias/") {
        return Err(Exception::validation("Aliases must refer to keys. Not aliases."));
    }
    kms.create_alias(&request.alias_name, &target).map(|()| Value::Null)
}

fn delete_alias(kms: &Kms, request: &AliasRequest) -> Answer {
    kms.delete_alias(&request.alias_name).map(|()| Value::Null)
}

fn list_keys(kms: &Kms, request: &ListRequest) -> Answer {
    let limit = limit(request.limit, 100, 1_000)?;
    let keys: BTreeMap<String, Value> = {
        let state = kms.store.read();
        let live = state.keys.values().filter(|key| !key.is_gone());
        live.map(|key| (key.id.clone(), json!({ "KeyId": key.id, "KeyArn": key.arn }))).collect()
    };
    Ok(page("Keys", keys, limit, request.marker.as_deref()))
}

fn list_aliases(kms: &Kms, request: &ListRequest) -> Answer {
    let limit = limit(request.limit, 50, 100)?;
    let only = request.key_id.as_deref().map(|key| kms.find(key)).transpose()?.map(|key| key.id);
    let aliases: BTreeMap<String, Value> = {
        let state = kms.store.read();
        let wanted = state.aliases.iter().filter(|(_, id)| only.as_ref().is_none_or(|only| only == *id));
        let row = |(alias, id): (&String, &String)| {
            (alias.clone(), json!({ "AliasName": alias, "AliasArn": kms.alias_arn(alias), "TargetKeyId": id }))
        };
        wanted.map(row).collect()
    };
    Ok(page("Aliases", aliases, limit, request.marker.as_deref()))
}

/// One page of a listing; the marker of the next is the name that this one ends with.
fn page(field: &str, items: BTreeMap<String, Value>, limit: usize, marker: Option<&str>) -> Value {
    let mut rest = items.into_iter().filter(|(name, _)| marker.is_none_or(|marker| name.as_str() > marker));
    let (names, values): (Vec<String>, Vec<Value>) = rest.by_ref().take(limit).unzip();
    let truncated = rest.next().is_some();
    let mut answer = json!({ field: values, "Truncated": truncated });
    if let (true, Some(last)) = (truncated, names.last()) {
        answer["NextMarker"] = last.clone().into();
    }
    answer
}

fn limit(asked: Option<usize>, standard: usize, max: usize) -> Result<usize, Exception> {
    match asked.unwrap_or(standard) {
        limit if (1..=max).contains(&limit) => Ok(limit),
        _ => Err(Exception::validation(format!("Limit must be 1 to {max}."))),
    }
}

/// A key for the cryptography of a client. AWS managed keys work through their service only.
fn usable_by_client(kms: &Kms, name: &str, action: Action, dry_run: bool) -> Result<Key, Exception> {
    let key = kms.usable(name, action)?;
    if key.manager == Manager::Aws {
        return Err(Exception::denied_by_service(&kms.user_arn(), action.name(), &key.arn));
    }
    match dry_run {
        true => Err(Exception {
            status: 412,
            ..Exception::new(
                "DryRunOperationException",
                "The request would have succeeded, but the DryRun option is set.",
            )
        }),
        false => Ok(key),
    }
}

fn data_key_length(request: &DataKeyRequest) -> Result<usize, Exception> {
    match (request.key_spec.as_deref(), request.number_of_bytes) {
        (Some("AES_256"), None) => Ok(32),
        (Some("AES_128"), None) => Ok(16),
        (None, Some(length)) if (1..=DATA_KEY_BYTES_MAX).contains(&length) => Ok(length),
        _ => Err(Exception::validation(
            "Please specify either KeySpec (AES_128 or AES_256) or NumberOfBytes (1 to 1024), and not both.",
        )),
    }
}

fn metadata(kms: &Kms, key: &Key) -> Value {
    let mut metadata = json!({
        "AWSAccountId": kms.account,
        "Arn": key.arn,
        "CreationDate": key.created_unix_s,
        "CustomerMasterKeySpec": key.spec,
        "Description": key.description,
        "Enabled": key.status == Status::Enabled,
        "KeyId": key.id,
        "KeyManager": key.manager,
        "KeySpec": key.spec,
        "KeyState": key.status.name(),
        "KeyUsage": key.usage,
        "MultiRegion": key.id.starts_with("mrk-"),
        "Origin": if key.external { "EXTERNAL" } else { "AWS_KMS" },
    });
    if key.is_symmetric() {
        metadata["EncryptionAlgorithms"] = json!(["SYMMETRIC_DEFAULT"]);
    }
    if let Status::PendingDeletion { at_unix_s } = key.status {
        metadata["DeletionDate"] = at_unix_s.into();
    }
    metadata
}

fn record(kms: &Kms, action: &str, request: &Value) {
    let named = request.get("KeyId").or_else(|| request.get("TargetKeyId")).and_then(Value::as_str);
    let context = request.get("EncryptionContext").cloned().map(serde_json::from_value);
    // A context that cannot be read is refused by the action itself; the call log then has the call without it.
    kms.record(Caller::Client, action, named, &context.and_then(Result::ok).unwrap_or_default());
}

fn read<T: DeserializeOwned>(request: Value) -> Result<T, Exception> {
    serde_json::from_value(request).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> Exception {
    Exception::new("SerializationException", error.to_string())
}

fn to_base64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

fn from_base64(field: &str, text: &str) -> Result<Vec<u8>, Exception> {
    let bad = |_| Exception::new("SerializationException", format!("{field} is not Base64."));
    base64_simd::STANDARD.decode_to_vec(text).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        kms: Kms,
        _directory: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Fixture {
            let directory = tempfile::tempdir().unwrap();
            let kms = Kms::open(directory.path(), "us-east-1", "111122223333").unwrap();
            Fixture { kms, _directory: directory }
        }

        fn call(&self, action: &str, request: &Value) -> Value {
            call(&self.kms, action, request.to_string().as_bytes()).unwrap()
        }

        fn kind(&self, action: &str, request: &Value) -> &'static str {
            call(&self.kms, action, request.to_string().as_bytes()).unwrap_err().kind
        }

        fn key(&self) -> String {
            self.call("CreateKey", &json!({}))["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
        }
    }

    #[test]
    fn decrypt_returns_a_data_key_under_its_context() {
        let kms = Fixture::new();
        let context = json!({ "mount": "a" });
        let request = json!({ "KeyId": kms.key(), "KeySpec": "AES_256", "EncryptionContext": context });
        let data_key = kms.call("GenerateDataKey", &request);
        let blob = &data_key["CiphertextBlob"];
        let opened = kms.call("Decrypt", &json!({ "CiphertextBlob": blob, "EncryptionContext": context }));
        assert_eq!((&opened["Plaintext"], &opened["KeyId"]), (&data_key["Plaintext"], &data_key["KeyId"]));
        assert_eq!(from_base64("Plaintext", opened["Plaintext"].as_str().unwrap()).unwrap().len(), 32);
        assert_eq!(kms.kind("Decrypt", &json!({ "CiphertextBlob": blob })), "InvalidCiphertextException");
        let other = json!({ "CiphertextBlob": blob, "EncryptionContext": context, "KeyId": kms.key() });
        assert_eq!(kms.kind("Decrypt", &other), "IncorrectKeyException");
    }

    #[test]
    fn a_data_key_without_plaintext_has_none() {
        let kms = Fixture::new();
        let answer = kms.call("GenerateDataKeyWithoutPlaintext", &json!({ "KeyId": kms.key(), "NumberOfBytes": 64 }));
        assert!(answer.get("Plaintext").is_none());
        let opened = kms.call("Decrypt", &json!({ "CiphertextBlob": answer["CiphertextBlob"] }));
        assert_eq!(from_base64("Plaintext", opened["Plaintext"].as_str().unwrap()).unwrap().len(), 64);
    }

    #[test]
    fn describe_key_tells_the_state_and_the_usage() {
        let kms = Fixture::new();
        let id = kms.key();
        kms.call("ScheduleKeyDeletion", &json!({ "KeyId": id, "PendingWindowInDays": 7 }));
        let metadata = &kms.call("DescribeKey", &json!({ "KeyId": id }))["KeyMetadata"];
        assert_eq!((&metadata["KeyState"], &metadata["Enabled"]), (&json!("PendingDeletion"), &json!(false)));
        assert!(metadata["DeletionDate"].is_u64());
        let managed = &kms.call("DescribeKey", &json!({ "KeyId": "alias/aws/s3" }))["KeyMetadata"];
        assert_eq!((&managed["KeyManager"], &managed["KeyUsage"]), (&json!("AWS"), &json!("ENCRYPT_DECRYPT")));
    }

    #[test]
    fn the_managed_key_is_not_for_clients() {
        let kms = Fixture::new();
        let request = json!({ "KeyId": "alias/aws/s3", "KeySpec": "AES_256" });
        assert_eq!(kms.kind("GenerateDataKey", &request), "AccessDeniedException");
    }

    #[test]
    fn listings_come_in_pages() {
        let kms = Fixture::new();
        let id = kms.key();
        for n in 0..5 {
            kms.call("CreateAlias", &json!({ "AliasName": format!("alias/{n}"), "TargetKeyId": id }));
        }
        let mut seen = Vec::new();
        let mut marker = Value::Null;
        loop {
            let page = kms.call("ListAliases", &json!({ "Limit": 2, "Marker": marker, "KeyId": id }));
            seen.extend(page["Aliases"].as_array().unwrap().iter().map(|alias| alias["AliasName"].clone()));
            match page["Truncated"].as_bool().unwrap() {
                true => marker = page["NextMarker"].clone(),
                false => break,
            }
        }
        assert_eq!(seen, ["alias/0", "alias/1", "alias/2", "alias/3", "alias/4"]);
        assert_eq!(kms.call("ListKeys", &json!({}))["Keys"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn mistakes_have_the_exceptions_of_aws() {
        let kms = Fixture::new();
        let id = kms.key();
        kms.call("CreateAlias", &json!({ "AliasName": "alias/a", "TargetKeyId": id }));
        let key = |id: &str| json!({ "KeyId": id });
        for (action, request, kind) in [
            ("CreateAlias", json!({ "AliasName": "alias/a", "TargetKeyId": id }), "AlreadyExistsException"),
            ("DeleteAlias", json!({ "AliasName": "alias/b" }), "NotFoundException"),
            ("DescribeKey", key("alias/none"), "NotFoundException"),
            ("GenerateDataKey", key(&id), "ValidationException"),
            (
                "GenerateDataKey",
                json!({ "KeyId": id, "KeySpec": "AES_256", "DryRun": true }),
                "DryRunOperationException",
            ),
            ("Encrypt", json!({ "KeyId": id, "Plaintext": "" }), "ValidationException"),
            ("Encrypt", json!({ "KeyId": id, "Plaintext": "%" }), "SerializationException"),
            ("Decrypt", json!({ "CiphertextBlob": "AAAA" }), "InvalidCiphertextException"),
            ("CancelKeyDeletion", key(&id), "KMSInvalidStateException"),
            ("ScheduleKeyDeletion", json!({ "KeyId": id, "PendingWindowInDays": 6 }), "ValidationException"),
            ("ListKeys", json!({ "Limit": 0 }), "ValidationException"),
            ("DescribeKey", json!({}), "SerializationException"),
            ("ReEncrypt", json!({}), "UnknownOperationException"),
        ] {
            assert_eq!(kms.kind(action, &request), kind, "{action}");
        }
    }

    #[test]
    fn every_listed_action_is_known() {
        let kms = Fixture::new();
        for action in ACTIONS {
            let unknown =
                call(&kms.kms, action, b"{}").is_err_and(|refused| refused.kind == "UnknownOperationException");
            assert!(!unknown, "{action}");
        }
    }

    #[test]
    fn the_calls_of_clients_are_counted_apart() {
        let kms = Fixture::new();
        kms.call("DescribeKey", &json!({ "KeyId": kms.key() }));
        let counted = kms.kms.calls(Caller::Client);
        assert_eq!(counted, BTreeMap::from([("CreateKey".into(), 1), ("DescribeKey".into(), 1)]));
        assert!(kms.kms.calls(Caller::S3).is_empty());
    }
}
