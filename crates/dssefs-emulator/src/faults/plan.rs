//! The plan as written by a person or a test: rules in order, each checked before it may be armed.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::super::kms::api;
use super::super::operation;

/// The longest delay a rule may ask for, in milliseconds.
const DELAY_MS_MAX: u64 = 600_000;

/// Rules in order of precedence, all of them possible. Its JSON form is a list of rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Rule>", into = "Vec<Rule>")]
pub struct Plan {
    rules: Vec<Rule>,
}

/// One rule: which requests it strikes, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The S3 operation, such as `PutObject`; `*` for all of S3; `kms:Decrypt` for a KMS call that a client makes
    /// itself; `kms:*` for all of those.
    pub operation: String,
    /// Strikes only requests whose key (for a listing: prefix) contains this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_contains: Option<String>,
    /// The first matching request that is struck, counted from 1.
    #[serde(default = "one")]
    pub nth: u64,
    /// How many requests are struck from then on; 0 means for ever.
    #[serde(default = "one")]
    pub times: u64,
    /// What happens to them.
    pub fault: Fault,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Refused before any work, with this error. To KMS calls, `code` is the exception's name.
    Failure {
        /// HTTP status, 300 to 599 except 304.
        status: u16,
        /// The code of the error, such as `SlowDown`.
        code: String,
        /// The text of the error.
        message: String,
    },
    /// Starts this many milliseconds late (1 to 600,000), then proceeds.
    DelayMs(u64),
    /// The connection is reset (TCP RST) before any work.
    Reset,
    /// The work is done; the answer's body ends after this many bytes, and the connection is closed.
    CutBodyAfter(u64),
    /// The work is done; the lowest bit of the byte at this offset of the answer's body is flipped.
    FlipByte(u64),
    /// The work is done; the answer's encryption headers are replaced by these, so all absent means that none is sent.
    Sse {
        /// `x-amz-server-side-encryption`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        algorithm: Option<String>,
        /// `x-amz-server-side-encryption-aws-kms-key-id`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// `x-amz-server-side-encryption-bucket-key-enabled`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bucket_key: Option<bool>,
    },
    /// The work is done; some of the answer is replaced. Refusals stay as they are.
    Alter {
        /// Headers of the answer by name; one whose value is null is left out.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<String, Option<String>>,
        /// The answer's body.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<String>,
    },
    /// Flips the lowest bit of the byte at this offset of the request's body on its way in. Then the work is done, or
    /// refused.
    FlipRequestByte(u64),
    /// The work is done, and the connection is closed instead of an answer.
    LoseAnswer,
    /// The KMS calls that S3 makes for this request fail with 503 `SlowDown`, in the words of KMS throttling.
    ThrottleKms,
    /// The work is done without regard to `If-Match` and `If-None-Match`, as by stores that do not know them.
    IgnoreConditions,
    /// A write or delete that asks for a condition is answered 501, as by stores that do not know them; any other is
    /// carried out.
    RefuseConditions,
    /// The query of the request is taken for nothing, as by stores that do not know annotations: the object itself is
    /// given, replaced or deleted.
    IgnoreAnnotations,
    /// Answers as to credentials that may list only below this prefix (a condition on `s3:prefix`). Other requests
    /// about the bucket and other keys are denied, and a missing object is 403 instead of 404.
    OnlyBelow(String),
    /// Answered 200 with an `<Error>` body before any work, as copies and completions may be.
    OkWithErrorBody {
        /// The code of the error, such as `InternalError`.
        code: String,
        /// The text of the error.
        message: String,
    },
    /// The request is read, and never answered: until the client goes away, or the server stops.
    Stall,
    /// The work is done, and never answered: until the client goes away, or the server stops.
    StallAnswer,
}

/// Why a rule is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Invalid {
    /// No such operation.
    #[error(
        "`{0}` is no operation that is known here; write a name such as `PutObject` or `kms:Decrypt`, `*` or `kms:*`."
    )]
    Operation(String),
    /// The number of the first struck request starts at 1.
    #[error("`nth` counts from 1, so it cannot be 0.")]
    NthZero,
    /// The operation has no key to look at.
    #[error("`key_contains` cannot be used with {0}, whose address has no key.")]
    NoKey(String),
    /// The fault makes no sense for the operation.
    #[error("`{fault}` cannot be used with {operation}: {why}.")]
    Impossible {
        /// The fault's name in JSON.
        fault: &'static str,
        /// The operation it was asked for.
        operation: String,
        /// The reason.
        why: &'static str,
    },
    /// A number or a text out of its range.
    #[error("`{field}` is out of range: {why}.")]
    Range {
        /// The field's name in JSON.
        field: &'static str,
        /// What it must be.
        why: &'static str,
    },
}

impl Plan {
    /// Checks the rules.
    ///
    /// # Errors
    /// The first rule that is out of range, or that could never strike.
    pub fn new(rules: Vec<Rule>) -> Result<Plan, Invalid> {
        rules.iter().try_for_each(Rule::check)?;
        Ok(Plan { rules })
    }

    /// The rules, in order of precedence.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

impl TryFrom<Vec<Rule>> for Plan {
    type Error = Invalid;

    fn try_from(rules: Vec<Rule>) -> Result<Plan, Invalid> {
        Plan::new(rules)
    }
}

impl From<Plan> for Vec<Rule> {
    fn from(plan: Plan) -> Vec<Rule> {
        plan.rules
    }
}

impl Rule {
    /// A rule that strikes the next request of the operation, once.
    #[must_use]
    pub fn on(operation: &str, fault: Fault) -> Rule {
        Rule { operation: operation.to_owned(), key_contains: None, nth: 1, times: 1, fault }
    }

    /// The same, for keys that contain `text` only.
    #[must_use]
    pub fn key_contains(self, text: &str) -> Rule {
        Rule { key_contains: Some(text.to_owned()), ..self }
    }

    /// The same, from the `nth` matching request on, counted from 1.
    #[must_use]
    pub fn nth(self, nth: u64) -> Rule {
        Rule { nth, ..self }
    }

    /// The same, for this many requests; 0 means for ever.
    #[must_use]
    pub fn times(self, times: u64) -> Rule {
        Rule { times, ..self }
    }

    /// Whether the rule applies to this request.
    pub(super) fn matches(&self, operation: &str, key: Option<&str>) -> bool {
        let operation_matches = match self.operation.as_str() {
            "*" => !operation.starts_with(KMS),
            "kms:*" => operation.starts_with(KMS),
            name => name == operation,
        };
        let key_matches = |text: &String| key.is_some_and(|key| key.contains(text.as_str()));
        operation_matches && self.key_contains.as_ref().is_none_or(key_matches)
    }

    fn check(&self) -> Result<(), Invalid> {
        let operation = self.operation.as_str();
        if !is_known(operation) {
            return Err(Invalid::Operation(self.operation.clone()));
        }
        if self.nth == 0 {
            return Err(Invalid::NthZero);
        }
        if self.key_contains.is_some() && operation != "*" && !operation::has_key(operation) {
            return Err(Invalid::NoKey(self.operation.clone()));
        }
        self.fault.check_range()?;
        match self.fault.obstacle(operation) {
            None => Ok(()),
            Some(why) => Err(Invalid::Impossible { fault: self.fault.name(), operation: self.operation.clone(), why }),
        }
    }
}

impl Fault {
    /// The fault's name in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Failure { .. } => "failure",
            Fault::DelayMs(_) => "delay_ms",
            Fault::Reset => "reset",
            Fault::CutBodyAfter(_) => "cut_body_after",
            Fault::FlipByte(_) => "flip_byte",
            Fault::FlipRequestByte(_) => "flip_request_byte",
            Fault::Sse { .. } => "sse",
            Fault::Alter { .. } => "alter",
            Fault::LoseAnswer => "lose_answer",
            Fault::ThrottleKms => "throttle_kms",
            Fault::IgnoreConditions => "ignore_conditions",
            Fault::RefuseConditions => "refuse_conditions",
            Fault::IgnoreAnnotations => "ignore_annotations",
            Fault::OnlyBelow(_) => "only_below",
            Fault::OkWithErrorBody { .. } => "ok_with_error_body",
            Fault::Stall => "stall",
            Fault::StallAnswer => "stall_answer",
        }
    }

    fn check_range(&self) -> Result<(), Invalid> {
        let out = |field, why| Err(Invalid::Range { field, why });
        match self {
            Fault::Failure { status: 304 | ..300 | 600.., .. } => out("status", "it must be 300 to 599, and not 304"),
            Fault::DelayMs(0) => out("delay_ms", "it must be at least 1"),
            Fault::DelayMs(ms) if *ms > DELAY_MS_MAX => out("delay_ms", "it must be at most 600000"),
            Fault::Failure { code, .. } | Fault::OkWithErrorBody { code, .. } if code.is_empty() => {
                out("code", "it must not be empty")
            }
            Fault::Sse { algorithm, key, .. } if !(fits_header(algorithm) && fits_header(key)) => {
                out("sse", "algorithm and key must be visible ASCII, as headers are")
            }
            Fault::Alter { headers, .. }
                if !headers.iter().all(|(name, value)| is_header_name(name) && fits_header(value)) =>
            {
                out("headers", "names and values must be those of headers")
            }
            _ => Ok(()),
        }
    }

    /// Why the fault can never happen to the operation, if so. `*` stands for at least one operation that it can happen
    /// to.
    fn obstacle(&self, operation: &str) -> Option<&'static str> {
        let any = operation == "*";
        match self {
            Fault::CutBodyAfter(_) | Fault::FlipByte(_) if !any && !answers_with_body(operation) => {
                Some("its answers have no body")
            }
            Fault::FlipRequestByte(_) if !any && !TAKES_CONTENT.contains(&operation) => {
                Some("its requests carry no content")
            }
            Fault::Sse { .. } if !any && !TELLS_ENCRYPTION.contains(&operation) => {
                Some("its answers have no encryption headers")
            }
            Fault::ThrottleKms if !any && !CALLS_KMS.contains(&operation) => Some("S3 calls no KMS for it"),
            Fault::IgnoreConditions if operation == "GetObject" => None,
            Fault::IgnoreConditions | Fault::RefuseConditions if !any && !TAKES_CONDITIONS.contains(&operation) => {
                Some("it does nothing under a condition")
            }
            Fault::IgnoreAnnotations if !any && !OF_ANNOTATIONS.contains(&operation) => {
                Some("it is not about annotations")
            }
            Fault::OkWithErrorBody { .. } if !FAILS_LATE.contains(&operation) => {
                Some("only CopyObject, UploadPartCopy and CompleteMultipartUpload may fail after a status of 200")
            }
            _ => None,
        }
    }
}

/// How the names of KMS calls start, as in IAM.
const KMS: &str = "kms:";

/// The operations whose answers carry `x-amz-server-side-encryption` (the models of the S3 API).
const TELLS_ENCRYPTION: &[&str] = &[
    "PutObject",
    "GetObject",
    "HeadObject",
    "CopyObject",
    "CreateMultipartUpload",
    "UploadPart",
    "UploadPartCopy",
    "CompleteMultipartUpload",
    "PutObjectAnnotation",
    "GetObjectAnnotation",
];

/// The operations whose requests carry an object's content.
const TAKES_CONTENT: &[&str] = &["PutObject", "UploadPart"];

/// The operations that need a KMS permission (S3 User Guide, "Required permissions for Amazon S3 API operations").
const CALLS_KMS: &[&str] = &[
    "PutObject",
    "GetObject",
    "HeadObject",
    "GetObjectAttributes",
    "CopyObject",
    "CreateMultipartUpload",
    "UploadPart",
    "UploadPartCopy",
    "CompleteMultipartUpload",
    "ListParts",
    "PutObjectAnnotation",
    "GetObjectAnnotation",
];

/// The operations that change something only if a condition holds ("Conditional writes" and "Conditional deletes", S3
/// User Guide).
const TAKES_CONDITIONS: &[&str] = &["PutObject", "CopyObject", "CompleteMultipartUpload", "DeleteObject"];

/// The operations that a store without annotations takes for others.
const OF_ANNOTATIONS: &[&str] =
    &["PutObjectAnnotation", "GetObjectAnnotation", "ListObjectAnnotations", "DeleteObjectAnnotation"];

/// The operations that may answer 200 with an `<Error>` body (their pages in the S3 API reference).
const FAILS_LATE: &[&str] = &["CopyObject", "UploadPartCopy", "CompleteMultipartUpload"];

fn one() -> u64 {
    1
}

fn is_known(operation: &str) -> bool {
    let of_kms = |action| action == "*" || api::ACTIONS.contains(&action);
    operation == "*" || operation::is_known(operation) || operation.strip_prefix(KMS).is_some_and(of_kms)
}

fn answers_with_body(operation: &str) -> bool {
    let silent = ["Head", "Put", "Abort", "Delete"].iter().any(|verb| operation.starts_with(verb));
    ["DeleteObjects", "PutObjectAnnotation"].contains(&operation)
        || !(silent || ["UploadPart", "CreateBucket"].contains(&operation))
}

fn is_header_name(name: &str) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok()
}

fn fits_header(value: &Option<String>) -> bool {
    value.as_deref().is_none_or(|value| HeaderValue::from_str(value).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Plan, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_plan_of_rules_has_defaults() {
        let plan =
            parse(r#"[{"operation":"GetObject","fault":{"delay_ms":20}},{"operation":"*","times":0,"fault":"reset"}]"#);
        let expected = vec![Rule::on("GetObject", Fault::DelayMs(20)), Rule::on("*", Fault::Reset).times(0)];
        assert_eq!(plan.unwrap().rules(), expected);
    }

    #[test]
    fn every_fault_survives_its_json_form() {
        let text = || "Text".to_owned();
        let faults = [
            Fault::Failure { status: 503, code: text(), message: text() },
            Fault::DelayMs(1),
            Fault::Reset,
            Fault::CutBodyAfter(0),
            Fault::FlipByte(9),
            Fault::FlipRequestByte(9),
            Fault::Sse { algorithm: Some(text()), key: None, bucket_key: Some(true) },
            Fault::Alter { headers: BTreeMap::from([("etag".to_owned(), None)]), body: Some(text()) },
            Fault::LoseAnswer,
            Fault::ThrottleKms,
            Fault::IgnoreConditions,
            Fault::RefuseConditions,
            Fault::IgnoreAnnotations,
            Fault::OkWithErrorBody { code: text(), message: text() },
            Fault::Stall,
        ];
        for fault in faults {
            let operation = match fault {
                Fault::CutBodyAfter(_) | Fault::FlipByte(_) => "GetObject",
                Fault::FlipRequestByte(_) => "PutObject",
                Fault::IgnoreAnnotations => "ListObjectAnnotations",
                _ => "CopyObject",
            };
            let plan = Plan::new(vec![Rule::on(operation, fault.clone())]).unwrap();
            let json = serde_json::to_string(&plan).unwrap();
            assert!(json.contains(fault.name()), "{json}");
            assert_eq!(parse(&json).unwrap(), plan);
        }
    }

    #[test]
    fn unknown_fields_and_names_are_refused_with_a_sentence() {
        for (json, part) in [
            (r#"[{"operation":"GetObject","nht":2,"fault":"reset"}]"#, "unknown field `nht`"),
            (r#"[{"operation":"GetObject","fault":"explode"}]"#, "unknown variant `explode`"),
            (r#"[{"operation":"GetObject","fault":{"sse":{"algoritm":"x"}}}]"#, "unknown field `algoritm`"),
            (r#"[{"operation":"GetObjekt","fault":"reset"}]"#, "`GetObjekt` is no operation that is known here"),
            (r#"[{"operation":"kms:Decript","fault":"reset"}]"#, "`kms:Decript` is no operation"),
            (r#"[{"operation":"GetObject","nth":0,"fault":"reset"}]"#, "`nth` counts from 1"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn combinations_that_could_never_strike_are_refused() {
        let refused = |operation: &str, fault: Fault| Plan::new(vec![Rule::on(operation, fault)]).unwrap_err();
        for (operation, fault) in [
            ("HeadObject", Fault::FlipByte(0)),
            ("PutObject", Fault::CutBodyAfter(1)),
            ("GetObject", Fault::FlipRequestByte(0)),
            ("DeleteObject", Fault::ThrottleKms),
            ("UploadPart", Fault::IgnoreConditions),
            ("GetObject", Fault::IgnoreAnnotations),
            ("ListObjectsV2", Fault::Sse { algorithm: None, key: None, bucket_key: None }),
            ("PutObject", Fault::OkWithErrorBody { code: "InternalError".into(), message: String::new() }),
            ("kms:Decrypt", Fault::ThrottleKms),
        ] {
            assert!(matches!(refused(operation, fault), Invalid::Impossible { .. }), "{operation}");
        }
        let keyed = Plan::new(vec![Rule::on("ListBuckets", Fault::Reset).key_contains("a")]);
        assert_eq!(keyed, Err(Invalid::NoKey("ListBuckets".into())));
        let failure = Fault::Failure { status: 200, code: "x".into(), message: String::new() };
        assert!(matches!(refused("GetObject", failure), Invalid::Range { field: "status", .. }));
        assert!(matches!(refused("GetObject", Fault::DelayMs(0)), Invalid::Range { field: "delay_ms", .. }));
    }

    #[test]
    fn a_rule_matches_operation_and_part_of_key() {
        let rule = Rule::on("*", Fault::Reset).key_contains("log");
        assert!(rule.matches("GetObject", Some("a/log/b")));
        assert!(!rule.matches("GetObject", Some("a/b")));
        assert!(!rule.matches("GetObject", None));
        assert!(!Rule::on("*", Fault::Reset).matches("kms:Decrypt", None));
        assert!(Rule::on("kms:*", Fault::Reset).matches("kms:Decrypt", None));
    }
}
