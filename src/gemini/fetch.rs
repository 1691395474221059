//! Images by URL. A URL in an answer is untrusted: it must be https, must not lead to a private
//! address, not even by a redirect, and gets neither our key nor a proxy. The one exception is
//! the origin that requests go to: a gateway may hand out its own files.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::LOCATION;
use tokio::time::{Instant, timeout_at};
use url::{Host, Url};

use super::client::{ClientError, Timeouts, builder, source_chain};

/// Redirects that are followed for one image.
const REDIRECTS_MAX: usize = 5;

/// Why an image could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Neither https nor the endpoint's own origin, or no URL at all.
    #[error("the answer's image URL is not allowed: {0}")]
    Forbidden(&'static str),
    /// More than five redirects, or one without a target.
    #[error("the image's URL redirects too often or nowhere")]
    Redirects,
    /// The server said no.
    #[error("the image's server answered with status {0}")]
    Status(u16),
    /// More bytes than an image may have.
    #[error("the image at the answer's URL is larger than {max} bytes")]
    TooLarge {
        /// The most that one may have.
        max: u64,
    },
    /// It took too long.
    #[error("the image's server was silent for too long")]
    TimedOut,
    /// The connection could not be made or broke.
    #[error("the image could not be fetched: {0}")]
    Broken(String),
}

impl FetchError {
    /// Whether another try may go better.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::TimedOut | Self::Broken(_) => true,
            Self::Status(status) => matches!(status, 404 | 408 | 425 | 429 | 500..),
            Self::Forbidden(_) | Self::Redirects | Self::TooLarge { .. } => false,
        }
    }
}

/// Fetches images by URL.
#[derive(Debug, Clone)]
pub struct ImageFetcher {
    own: reqwest::Client,
    public: reqwest::Client,
    base: Url,
    timeouts: Timeouts,
}

/// An image's bytes on their way.
#[derive(Debug)]
pub struct FetchBody {
    response: reqwest::Response,
    bytes: u64,
    bytes_max: u64,
    idle: Duration,
    deadline: Instant,
}

impl ImageFetcher {
    /// A fetcher that trusts the origin of `base` alone.
    pub fn new(base: Url, timeouts: Timeouts) -> Result<Self, ClientError> {
        let build =
            |builder: reqwest::ClientBuilder| builder.no_proxy().build().map_err(ClientError::from_reqwest);
        Ok(Self {
            own: build(builder(timeouts.connect))?,
            public: build(builder(timeouts.connect).dns_resolver(Arc::new(PublicOnly)))?,
            base,
            timeouts,
        })
    }

    /// Begins to fetch the image at `url`, which may have at most `bytes_max` bytes.
    pub async fn fetch(&self, url: &str, bytes_max: u64) -> Result<FetchBody, FetchError> {
        let deadline = Instant::now() + self.timeouts.total;
        let mut url = Url::parse(url).map_err(|_| FetchError::Forbidden("it is no URL"))?;
        for _ in 0..=REDIRECTS_MAX {
            let client = self.client_for(&url)?;
            let wait = deadline.min(Instant::now() + self.timeouts.idle);
            let response = match timeout_at(wait, client.get(url.clone()).send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(FetchError::Broken(source_chain(error))),
                Err(_) => return Err(FetchError::TimedOut),
            };
            let status = response.status();
            if status.is_redirection() {
                url = redirect_target(&url, &response)?;
            } else if status.as_u16() == 200 {
                return Ok(FetchBody { response, bytes: 0, bytes_max, idle: self.timeouts.idle, deadline });
            } else {
                return Err(FetchError::Status(status.as_u16()));
            }
        }
        Err(FetchError::Redirects)
    }

    fn client_for(&self, url: &Url) -> Result<&reqwest::Client, FetchError> {
        if url.origin() == self.base.origin() {
            return Ok(&self.own);
        }
        if url.scheme() != "https" {
            return Err(FetchError::Forbidden("it is not https"));
        }
        let private = match url.host() {
            Some(Host::Ipv4(ip)) => !is_public(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => !is_public(IpAddr::V6(ip)),
            // Names are judged by what they resolve to.
            Some(Host::Domain(_)) => false,
            None => true,
        };
        if private { Err(FetchError::Forbidden("it leads to a private address")) } else { Ok(&self.public) }
    }
}

impl FetchBody {
    /// The next block; `None` at the end. Not cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        let wait = self.deadline.min(Instant::now() + self.idle);
        match timeout_at(wait, self.response.chunk()).await {
            Ok(Ok(block)) => {
                self.bytes += block.as_ref().map_or(0, |block| block.len() as u64);
                if self.bytes > self.bytes_max {
                    return Err(FetchError::TooLarge { max: self.bytes_max });
                }
                Ok(block)
            }
            Ok(Err(error)) => Err(FetchError::Broken(source_chain(error))),
            Err(_) => Err(FetchError::TimedOut),
        }
    }
}

fn redirect_target(from: &Url, response: &reqwest::Response) -> Result<Url, FetchError> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    location.and_then(|location| from.join(location).ok()).ok_or(FetchError::Redirects)
}

/// Resolves names as the system does and drops every address that is not public, so that the
/// check and the connection see the same answer.
#[derive(Debug)]
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err("the image's host has no public address".into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is reachable for everyone (IANA special-purpose address registries, read
/// 2026-11).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_broadcast()
        || ip.is_documentation()
        || ip.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19));
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    let embedded = |at: usize| {
        let [high, low] = [segments[at].to_be_bytes(), segments[at + 1].to_be_bytes()];
        is_public_v4(Ipv4Addr::new(high[0], high[1], low[0], low[1]))
    };
    match segments {
        // IPv4-mapped, IPv4-translated, NAT64 and 6to4 reach what is inside them.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            embedded(6)
        }
        [0x2002, ..] => embedded(1),
        // Teredo, documentation and the rest of the special blocks in 2001::/23.
        [0x2001, 0..=0x01ff | 0x0db8, ..] => false,
        // Global unicast is 2000::/3.
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
        ] {
            assert!(!is_public(private.parse().expect("an address")), "{private}");
        }
        for public in ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
    }

    #[test]
    fn only_https_and_the_own_origin_are_fetched() {
        let base: Url = "http://127.0.0.1:8080".parse().expect("url");
        let fetcher = ImageFetcher::new(base, Timeouts::default()).expect("builds");
        let check = |url: &str, allowed: bool| {
            let url = url.parse().expect("url");
            assert_eq!(fetcher.client_for(&url).is_ok(), allowed, "{url}");
        };
        check("http://127.0.0.1:8080/files/1.png", true);
        check("http://127.0.0.1:9090/files/1.png", false);
        check("https://127.0.0.1:8080/files/1.png", false);
        check("https://cdn.test/1.png", true);
        check("http://cdn.test/1.png", false);
        check("https://169.254.169.254/latest", false);
        check("https://[::1]/x", false);
        check("file:///etc/passwd", false);
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_not_connected_to() {
        let base: Url = "https://gateway.test".parse().expect("url");
        let fetcher = ImageFetcher::new(base, Timeouts::default()).expect("builds");
        let error = fetcher.fetch("https://localhost:1/x", 1_000).await.expect_err("refused");
        assert!(error.to_string().contains("no public address"), "{error}");
    }
}
