//! Proxies as other AWS tools take them from the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`,
//! each also in lower case, which wins. Requests over https go through a tunnel (CONNECT), so a proxy sees their host
//! and never their content.

use aws_smithy_http_client::proxy::ProxyConfig;

use super::address;

/// A variable of the environment that names no usable proxy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{variable} names no proxy that can be used ({reason}); write http://HOST:PORT or https://HOST:PORT, or unset it"
)]
pub struct ProxyError {
    /// Its name. Errors do not show its value, which may contain a password.
    variable: String,
    reason: String,
}

/// The proxies, and the hosts that are reached without them.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    pub(super) https: Option<Proxy>,
    pub(super) http: Option<Proxy>,
    /// Entries of `NO_PROXY` with a port, which the HTTP client does not know.
    no_ports: Vec<String>,
}

/// One proxy.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    pub(super) config: ProxyConfig,
    /// Its URL without user and password.
    pub(super) shown: String,
}

type Maker = fn(String) -> Result<ProxyConfig, aws_smithy_http_client::proxy::ProxyError>;

impl Proxies {
    /// Those of this process's environment.
    pub(super) fn of_environment() -> Result<Proxies, ProxyError> {
        Proxies::of(&|name| std::env::var(name).ok())
    }

    /// Reads the variables by `get`.
    fn of(get: &dyn Fn(&str) -> Option<String>) -> Result<Proxies, ProxyError> {
        let (_, rules) = either(get, "no_proxy").unwrap_or_default();
        let rules: Vec<&str> = rules.split([',', ' ']).map(str::trim).filter(|rule| !rule.is_empty()).collect();
        let (no_ports, hosts): (Vec<&str>, Vec<&str>) = rules.into_iter().partition(|rule| has_port(rule));
        // What other tools write as *.corp is .corp to the HTTP client.
        let hosts: Vec<&str> =
            hosts.into_iter().map(|rule| rule.strip_prefix('*').filter(|r| !r.is_empty()).unwrap_or(rule)).collect();
        let hosts = hosts.join(",");
        let all = either(get, "all_proxy");
        let proxy = |name, make: Maker| {
            either(get, name).or_else(|| all.clone()).map(|given| Proxy::new(given, make, &hosts)).transpose()
        };
        Ok(Proxies {
            https: proxy("https_proxy", ProxyConfig::https)?,
            http: proxy("http_proxy", ProxyConfig::http)?,
            no_ports: no_ports.into_iter().map(str::to_ascii_lowercase).collect(),
        })
    }

    /// Whether `NO_PROXY` names this URL's host and port together.
    pub(super) fn excepts(&self, url: &str) -> bool {
        let mut authority = address::authority(url).to_ascii_lowercase();
        if !has_port(&authority) {
            let is_https = url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"));
            authority.push_str(if is_https { ":443" } else { ":80" });
        }
        self.no_ports.contains(&authority)
    }

    /// Logs which proxies are used.
    pub(super) fn log(&self) {
        for (scheme, proxy) in [("https", &self.https), ("http", &self.http)] {
            if let Some(Proxy { shown, .. }) = proxy {
                tracing::info!(
                    proxy = shown,
                    "requests over {scheme} go through a proxy, except those to this host and to the hosts in NO_PROXY"
                );
            }
        }
    }
}

impl Proxy {
    fn new((variable, value): (String, String), make: Maker, no_proxy: &str) -> Result<Proxy, ProxyError> {
        // botocore and curl take a proxy without a scheme for one of http.
        let url = if value.contains("://") { value } else { format!("http://{value}") };
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme).to_owned();
        let shown = format!("{scheme}://{}", address::authority(&url));
        // The client's own message may repeat the URL and its password.
        let refused = |reason: &str| ProxyError { variable: variable.clone(), reason: reason.to_owned() };
        if !(scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")) {
            return Err(refused("only proxies of http and https are known"));
        }
        if !address::names_a_host(&url) {
            return Err(refused("it names no host, or no port"));
        }
        let config = make(url).map_err(|_| refused("it is not a URL"))?;
        Ok(Proxy { config: config.no_proxy(no_proxy), shown })
    }
}

/// The name and the value of a variable, in lower case or else in upper case. An empty one counts as unset.
/// In a CGI program `HTTP_PROXY` is a header of the request (CVE-2016-5385).
fn either(get: &dyn Fn(&str) -> Option<String>, lower: &str) -> Option<(String, String)> {
    let upper = lower.to_ascii_uppercase();
    let is_header = upper == "HTTP_PROXY" && get("REQUEST_METHOD").is_some();
    let found = match get(lower) {
        Some(value) => (lower.to_owned(), value),
        None if is_header => return None,
        None => (upper.clone(), get(&upper)?),
    };
    Some(found).filter(|(_, value)| !value.trim().is_empty())
}

/// `HOST:PORT`, and no IPv6 address.
fn has_port(rule: &str) -> bool {
    let named = rule.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
    named.is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Proxies, ProxyError> {
        Proxies::of(&|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    fn shown(variables: &[(&str, &str)]) -> (Option<String>, Option<String>) {
        let proxies = of(variables).unwrap();
        (proxies.https.map(|proxy| proxy.shown), proxies.http.map(|proxy| proxy.shown))
    }

    #[test]
    fn variables_are_taken_as_other_aws_tools_take_them() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(shown(&[]), (None, None));
        assert_eq!(shown(&[("HTTPS_PROXY", "http://p:3128")]), (some("http://p:3128"), None));
        assert_eq!(shown(&[("HTTPS_PROXY", "http://a"), ("https_proxy", "b:1")]), (some("http://b:1"), None));
        assert_eq!(shown(&[("HTTPS_PROXY", "http://a"), ("https_proxy", "")]), (None, None));
        assert_eq!(shown(&[("http_proxy", "https://h")]), (None, some("https://h")));
        assert_eq!(
            shown(&[("ALL_PROXY", "http://a"), ("HTTP_PROXY", "http://h")]),
            (some("http://a"), some("http://h"))
        );
        assert_eq!(shown(&[("HTTP_PROXY", "http://h"), ("REQUEST_METHOD", "GET")]), (None, None));
    }

    #[test]
    fn a_password_is_neither_shown_nor_told() {
        let with_password = "http://user:secret@p:3128";
        assert_eq!(shown(&[("HTTPS_PROXY", with_password)]).0.as_deref(), Some("http://p:3128"));
        for bad in ["socks5://user:secret@p:1080", "http://user:secret@", "http://user:secret@p:x"] {
            let error = of(&[("ALL_PROXY", bad)]).unwrap_err().to_string();
            assert!(error.starts_with("ALL_PROXY names no proxy") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn no_proxy_may_name_a_port() {
        let proxies =
            of(&[("HTTPS_PROXY", "p"), ("NO_PROXY", "*.corp, Store.example:9000 ::1,[::1]:80 plain:443")]).unwrap();
        assert!(proxies.excepts("https://store.example:9000/key"));
        assert!(proxies.excepts("http://[::1]/"));
        assert!(proxies.excepts("https://plain/key") && !proxies.excepts("http://plain/key"));
        assert!(!proxies.excepts("https://store.example/key"));
        assert!(!proxies.excepts("https://a.corp/"), "that one the HTTP client knows");
    }
}
