//! Spans for OpenTelemetry, one for each run and each of its goals, if `OTEL_EXPORTER_OTLP_ENDPOINT` or
//! `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set.
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter>

use std::env;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;

/// Sends spans; the last ones when it is shut down.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// `None` if no endpoint is set.
    pub(crate) fn from_environment() -> Option<Self> {
        let names = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
        names.into_iter().find_map(env::var_os)?;
        // One TLS provider for all clients; it may be installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let exporter = SpanExporter::builder().with_http().build().ok()?;
        let resource = Resource::builder().with_service_name("sluicebox").build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        Some(Self { provider })
    }

    /// The layer that makes spans of the service's runs and goals.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let tracer = self.provider.tracer("sluicebox");
        let own = Targets::new().with_target("sluicebox::service", LevelFilter::INFO);
        let own = own.with_target("sluicebox::runs", LevelFilter::INFO);
        tracing_opentelemetry::layer().with_tracer(tracer).with_filter(own)
    }

    /// Sends the last spans.
    pub(crate) fn finish(self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!(%error, "the last spans cannot be sent");
        }
    }
}
