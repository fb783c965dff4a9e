//! The settings of OpenTelemetry: its standard variables, as far as this program has them, and two of its own.

use std::fmt;

use axum::http::uri::Scheme;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use clap::{Args, ValueEnum};
use platform::spans::{ExporterConfig, Protocol, Resource, Sampler};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OtlpProtocol {
    /// OTLP over HTTP, usually port 4318.
    #[value(name = "http/protobuf")]
    HttpProtobuf,
    /// OTLP over gRPC, usually port 4317.
    Grpc,
}

#[derive(Clone, Args)]
pub struct OtelSettings {
    /// Where traces go: the OTLP endpoint of a collector, as in http://otel-collector:4318; without it none are recorded.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", global = true)]
    pub otel_exporter_otlp_endpoint: Option<String>,
    /// How they are sent.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", default_value = "http/protobuf", global = true)]
    pub otel_exporter_otlp_protocol: OtlpProtocol,
    /// Headers for the collector, as in `authorization=Bearer%20…,x-tenant=1`.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS", hide_env_values = true, default_value = "", global = true)]
    pub otel_exporter_otlp_headers: String,
    /// The name of this program in traces [default: users, match, rides and location, each for its part].
    #[arg(long, env = "OTEL_SERVICE_NAME", global = true)]
    pub otel_service_name: Option<String>,
    /// More attributes of this process, as in `deployment.environment.name=production`.
    #[arg(long, env = "OTEL_RESOURCE_ATTRIBUTES", default_value = "", global = true)]
    pub otel_resource_attributes: String,
    /// Which traces are exported: always_on, always_off, traceidratio; with parentbased_ before it, a client's own decision counts.
    /// Errors and what is slow are exported anyway.
    #[arg(long, env = "OTEL_TRACES_SAMPLER", default_value = "parentbased_always_on", global = true)]
    pub otel_traces_sampler: String,
    /// The part of the traces that traceidratio exports, 0 to 1.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", global = true)]
    pub otel_traces_sampler_arg: Option<String>,
    /// Spans that take at least so many ms are exported with their trace, whatever the sampler says.
    #[arg(long, env = "TRACES_SLOW_MS", default_value_t = 1_000, global = true)]
    pub traces_slow_ms: u32,
    /// So is the rest of a ride of which the search took at least so many seconds.
    #[arg(long, env = "TRACES_SLOW_SEARCH_S", default_value_t = 60, global = true)]
    pub traces_slow_search_s: u32,
}

impl fmt::Debug for OtelSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtelSettings").finish_non_exhaustive()
    }
}

impl OtelSettings {
    /// What the exporter of the process `pod` needs; `None` if none is to run.
    ///
    /// # Errors
    /// A sentence that names the variable.
    pub fn config(&self, pod: &str) -> anyhow::Result<Option<ExporterConfig>> {
        let sampler = Sampler::parse(&self.otel_traces_sampler, set(&self.otel_traces_sampler_arg));
        let sampler = sampler.map_err(anyhow::Error::msg)?;
        let headers = self.headers()?;
        let mut attributes = vec![
            ("service.namespace".to_owned(), "rideshare".to_owned()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id".to_owned(), pod.to_owned()),
        ];
        let mut service_name = set(&self.otel_service_name).map(str::to_owned);
        for (name, value) in pairs(&self.otel_resource_attributes, "OTEL_RESOURCE_ATTRIBUTES")? {
            if name == "service.name" {
                service_name.get_or_insert(value);
                continue;
            }
            attributes.retain(|(known, _)| *known != name);
            attributes.push((name, value));
        }
        let Some(endpoint) = set(&self.otel_exporter_otlp_endpoint) else { return Ok(None) };
        let uri: Option<Uri> = endpoint.parse().ok().filter(|uri: &Uri| {
            let is_http = uri.scheme() == Some(&Scheme::HTTP) || uri.scheme() == Some(&Scheme::HTTPS);
            is_http && uri.authority().is_some_and(|authority| !authority.host().is_empty())
        });
        let endpoint = uri.ok_or_else(|| {
            anyhow::anyhow!(
                "OTEL_EXPORTER_OTLP_ENDPOINT must be the address of a collector, as in http://otel-collector:4318"
            )
        })?;
        if endpoint.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            anyhow::bail!(
                "OTEL_EXPORTER_OTLP_ENDPOINT has a user or a password, which are not sent: use OTEL_EXPORTER_OTLP_HEADERS, as in \
                 authorization=Basic%20…"
            );
        }
        Ok(Some(ExporterConfig {
            endpoint,
            protocol: match self.otel_exporter_otlp_protocol {
                OtlpProtocol::HttpProtobuf => Protocol::HttpProtobuf,
                OtlpProtocol::Grpc => Protocol::Grpc,
            },
            headers,
            resource: Resource { service_name, attributes },
            sampler,
            slow: chrono::Duration::milliseconds(self.traces_slow_ms.into()),
            slow_ride: chrono::Duration::seconds(self.traces_slow_search_s.into()),
        }))
    }

    fn headers(&self) -> anyhow::Result<HeaderMap> {
        let variable = "OTEL_EXPORTER_OTLP_HEADERS";
        let mut headers = HeaderMap::new();
        for (name, value) in pairs(&self.otel_exporter_otlp_headers, variable)? {
            // Neither the value nor a mistake in it is shown: it may be a secret.
            let name: HeaderName =
                name.parse().map_err(|_| anyhow::anyhow!("{variable}: a name is not that of a header"))?;
            let mut value: HeaderValue = value
                .parse()
                .map_err(|_| anyhow::anyhow!("{variable}: the value of {name} is not that of a header"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }
}

/// An empty variable is one that a deployment passes on although nobody set it.
fn set(text: &Option<String>) -> Option<&str> {
    text.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

/// `name=value` pairs with commas, in the form of W3C Baggage: values may be percent-encoded.
fn pairs(text: &str, variable: &str) -> anyhow::Result<Vec<(String, String)>> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            let pair = item.split_once('=').and_then(|(name, value)| Some((name.trim(), decoded(value.trim())?)));
            let (name, value) = pair.filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
                anyhow::anyhow!("{variable}: each of its items, with commas, must be name=value, percent-encoded UTF-8")
            })?;
            Ok((name.to_owned(), value))
        })
        .collect()
}

fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        settings: OtelSettings,
    }

    fn config(args: &[&str]) -> anyhow::Result<Option<ExporterConfig>> {
        let args = std::iter::once("rideshare").chain(args.iter().copied());
        Alone::try_parse_from(args)?.settings.config("pod-1")
    }

    #[test]
    fn without_an_endpoint_nothing_is_exported() {
        assert!(config(&[]).unwrap().is_none());
        assert!(config(&["--otel-exporter-otlp-endpoint", " "]).unwrap().is_none());
    }

    #[test]
    fn the_standard_variables_are_understood() {
        let endpoint = ["--otel-exporter-otlp-endpoint", "https://collector/otlp"];
        let more = [
            "--otel-exporter-otlp-headers=Authorization=Basic%20eDp5,x-tenant=a=b",
            "--otel-resource-attributes=service.name=rides-eu,service.version=9,region=eu%2C1",
            "--otel-exporter-otlp-protocol=grpc",
        ];
        let config = config(&[&endpoint[..], &more[..]].concat()).unwrap().unwrap();
        assert_eq!((config.endpoint.path(), config.protocol), ("/otlp", Protocol::Grpc));
        assert_eq!(config.headers["authorization"], "Basic eDp5");
        assert_eq!(config.headers["x-tenant"], "a=b");
        assert_eq!(config.resource.service_name.as_deref(), Some("rides-eu"));
        let attributes: Vec<_> = config.resource.attributes.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(
            attributes,
            [
                ("service.namespace", "rideshare"),
                ("service.instance.id", "pod-1"),
                ("service.version", "9"),
                ("region", "eu,1")
            ]
        );
    }

    #[test]
    fn mistakes_are_named_without_secrets() {
        for (args, expected) in [
            (vec!["--otel-exporter-otlp-endpoint", "collector:4318"], "OTEL_EXPORTER_OTLP_ENDPOINT"),
            (vec!["--otel-exporter-otlp-endpoint", "ftp://x"], "OTEL_EXPORTER_OTLP_ENDPOINT"),
            (vec!["--otel-exporter-otlp-endpoint", "http://u:secret@x:4318"], "use OTEL_EXPORTER_OTLP_HEADERS"),
            (vec!["--otel-exporter-otlp-endpoint", "http://secret@x"], "use OTEL_EXPORTER_OTLP_HEADERS"),
            (vec!["--otel-exporter-otlp-headers", "secret"], "OTEL_EXPORTER_OTLP_HEADERS"),
            (vec!["--otel-exporter-otlp-headers", "a=sec%0Aret"], "OTEL_EXPORTER_OTLP_HEADERS"),
            (vec!["--otel-resource-attributes", "a=%f"], "OTEL_RESOURCE_ATTRIBUTES"),
            (vec!["--otel-traces-sampler", "some"], "OTEL_TRACES_SAMPLER"),
            (vec!["--otel-exporter-otlp-protocol", "http/json"], "http/json"),
        ] {
            let error = config(&args).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("sec"), "{args:?}: {error}");
        }
    }
}
