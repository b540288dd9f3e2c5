//! The journal's sessions and their keys: begun under new data keys of KMS, opened again under those that KMS unwraps.

use std::path::Path;
use std::sync::Arc;

use crate::config::KeyChoice;
use crate::crypto;
use crate::journal::{self, Journal, Layer, Left, NewSession, Session, WrappedKey};
use crate::kms::{Binding, Kms};
use crate::policy::KeyArn;
use crate::sealed::ByteBudget;
use crate::secret::Key;

use super::StartError;

/// Begins a journal for `source` below `directory`. One kms:GenerateDataKey for each layer.
pub(super) async fn begin(
    kms: &Kms,
    keys: &[KeyChoice; 2],
    source: &str,
    directory: &Path,
    budget: Arc<ByteBudget>,
) -> Result<Journal, StartError> {
    let name = crypto::unique_name().map_err(|error| StartError::Internal(error.to_string()))?;
    let [inner, outer] = keys;
    let (inner, wrapped_inner) = new_key(kms, inner, Layer::Inner, &binding(source, &name)).await?;
    let (outer, wrapped_outer) = new_key(kms, outer, Layer::Outer, &binding(source, &name)).await?;
    let keys = [wrapped_inner, wrapped_outer];
    let new = NewSession { source: source.to_owned(), name, keys, inner, outer };
    Ok(Journal::create(directory, new, budget)?)
}

/// Reads what `session` left. One kms:Decrypt for each layer.
pub(super) async fn open(kms: &Kms, session: Session) -> Result<Left, StartError> {
    let binding = binding(&session.source, &session.name);
    let [inner, outer] = &session.keys;
    let inner = old_key(kms, inner, &binding).await?;
    let outer = old_key(kms, outer, &binding).await?;
    Ok(Left::read(session, &inner, &outer)?)
}

/// KMS gives the keys back only to whoever names the same mount and session, so that no session passes for another's.
fn binding<'a>(source: &'a str, name: &'a str) -> [(&'static str, &'a str); 2] {
    [("dssefs:source", source), ("dssefs:session", name)]
}

async fn new_key(
    kms: &Kms,
    choice: &KeyChoice,
    layer: Layer,
    binding: &Binding<'_>,
) -> Result<(Key, WrappedKey), StartError> {
    let arn = match choice {
        KeyChoice::Arn(arn) => arn.clone(),
        KeyChoice::Resolve(text) => kms.resolve(text).await?,
        KeyChoice::Managed => {
            return Err(StartError::Key("aws/s3 makes no data keys; give --spill-kms-key-id".to_owned()));
        }
    };
    let made = kms.data_key(&arn, binding).await?;
    let wrapped = base64_simd::STANDARD.encode_to_string(&made.wrapped);
    Ok((made.key, WrappedKey { layer, kms_key: arn.to_string(), wrapped }))
}

async fn old_key(kms: &Kms, key: &WrappedKey, binding: &Binding<'_>) -> Result<Key, StartError> {
    let changed = |what: &str| StartError::Key(format!("a session names {what}; its file was changed"));
    let arn = KeyArn::new(&key.kms_key).map_err(|_| changed("a KMS key that is no ARN"))?;
    let wrapped = base64_simd::STANDARD.decode_to_vec(&key.wrapped).map_err(|_| changed("a key that is no base64"))?;
    Ok(kms.unwrap(&arn, &wrapped, binding).await?)
}

impl From<journal::Error> for StartError {
    fn from(error: journal::Error) -> StartError {
        StartError::Internal(error.to_string())
    }
}
