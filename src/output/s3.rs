//! What the environment says about S3, checked before the store is opened: its client panics over an endpoint that
//! is no URL, and over a key that cannot stand in a header.

use std::fmt;

use object_store::ClientConfigKey;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key, S3CopyIfNotExists};
use url::Url;

/// How the names of its variables begin.
pub(super) const PREFIX: &str = "AWS_";

/// Why a variable cannot be used. Its value is not told: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unusable {
    variable: String,
    why: &'static str,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.variable, self.why)
    }
}

const NO_URL: &str = "is no URL; write it as http://HOST:PORT or https://HOST";
const NOT_HTTP: &str =
    "begins with http://, which has no TLS; set AWS_ALLOW_HTTP=true if that is meant, or write https://";
const NOT_PLAIN: &str =
    "has characters that no key, token or region has; look for quotes and line ends in it";

/// A builder with what `variables` say, by their names without [`PREFIX`]; values are not empty and have no space
/// around them.
pub(super) fn builder(
    variables: impl Iterator<Item = (String, String)>,
) -> Result<AmazonS3Builder, Unusable> {
    let mut builder = AmazonS3Builder::new();
    for (name, value) in variables {
        let variable = format!("{PREFIX}{name}");
        let Ok(key) = variable.to_ascii_lowercase().parse() else { continue };
        match key {
            Key::Endpoint
            | Key::S3Endpoint
            | Key::MetadataEndpoint
            | Key::StsEndpoint
            | Key::ContainerCredentialsFullUri
                if scheme(&value).is_none() =>
            {
                return Err(Unusable { variable, why: NO_URL });
            }
            Key::AccessKeyId | Key::SecretAccessKey | Key::Token | Key::Region | Key::DefaultRegion
                if !value.bytes().all(|byte| byte.is_ascii_graphic()) =>
            {
                return Err(Unusable { variable, why: NOT_PLAIN });
            }
            _ => {}
        }
        builder = builder.with_config(key, value);
    }
    check_tls(&builder)?;
    // Amazon itself, and most that speak its protocol, take the condition at the end of a multipart upload.
    if builder.get_config_value(&Key::CopyIfNotExists).is_none() {
        builder = builder.with_copy_if_not_exists(S3CopyIfNotExists::Multipart);
    }
    Ok(builder)
}

fn check_tls(builder: &AmazonS3Builder) -> Result<(), Unusable> {
    let endpoint = [(Key::S3Endpoint, "AWS_ENDPOINT_URL_S3"), (Key::Endpoint, "AWS_ENDPOINT_URL")];
    let used = endpoint.iter().find_map(|(key, name)| Some((builder.get_config_value(key)?, *name)));
    let allowed = builder.get_config_value(&Key::Client(ClientConfigKey::AllowHttp));
    match used {
        Some((url, name))
            if scheme(&url) == Some(Scheme::Http) && allowed.is_none_or(|word| is_no(&word)) =>
        {
            Err(Unusable { variable: name.to_owned(), why: NOT_HTTP })
        }
        _ => Ok(()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

/// Of an endpoint: a URL with a host, and nothing behind its path.
fn scheme(text: &str) -> Option<Scheme> {
    let url = Url::parse(text).ok().filter(|url| url.query().is_none() && url.fragment().is_none())?;
    match url.scheme() {
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        _ => None,
    }
}

/// As the store's client reads it; what is neither yes nor no, it refuses itself.
fn is_no(word: &str) -> bool {
    ["0", "false", "off", "no", "n"].iter().any(|no| word.eq_ignore_ascii_case(no))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(variables: &[(&str, &str)]) -> Result<AmazonS3Builder, String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        builder(variables).map_err(|unusable| unusable.to_string())
    }

    #[test]
    fn an_endpoint_that_is_no_url_is_refused_without_being_told() {
        for wrong in
            ["minio:9000", "localhost:9000", "minio", "http://", "http://h:99999", "https://h?x=s3cr3t"]
        {
            for name in ["ENDPOINT_URL", "ENDPOINT_URL_S3", "ENDPOINT"] {
                let error = built(&[(name, wrong), ("ALLOW_HTTP", "true")]).expect_err(wrong);
                assert_eq!(error, format!("AWS_{name} {NO_URL}"));
            }
        }
        for right in ["http://minio:9000", "https://s3.example.org/", "http://[::1]:9000"] {
            built(&[("ENDPOINT_URL", right), ("ALLOW_HTTP", "1")]).expect(right);
        }
    }

    #[test]
    fn an_endpoint_without_tls_is_refused_unless_that_is_meant() {
        let endpoint = ("ENDPOINT_URL", "http://minio:9000");
        for variables in [vec![endpoint], vec![endpoint, ("ALLOW_HTTP", "False")]] {
            let error = built(&variables).expect_err("not allowed");
            assert!(error.contains("AWS_ALLOW_HTTP=true"), "{error}");
        }
        built(&[("ALLOW_HTTP", "true"), endpoint]).expect("allowed");
    }

    #[test]
    fn a_key_that_cannot_stand_in_a_header_is_refused_without_being_told() {
        for name in ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION"] {
            for wrong in ["s3cr\n3t", "s3cr 3t", "s3cr\u{e9}t"] {
                assert_eq!(built(&[(name, wrong)]).expect_err(name), format!("AWS_{name} {NOT_PLAIN}"));
            }
        }
    }

    #[test]
    fn what_is_not_known_is_passed_over_and_copies_have_their_condition() {
        let is_multipart = |variables: &[(&str, &str)]| {
            let builder = built(variables).expect("usable");
            builder.get_config_value(&Key::CopyIfNotExists) == Some("multipart".to_owned())
        };
        assert!(is_multipart(&[("PROFILE", "studio"), ("PAGER", "")]));
        assert!(!is_multipart(&[("COPY_IF_NOT_EXISTS", "header:cf-copy-destination-if-none-match:*")]));
    }
}
