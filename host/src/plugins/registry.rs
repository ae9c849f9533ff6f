//! Plugins in OCI registries, in the form of `wkg`: a manifest with one layer of `application/wasm`.
//! <https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{
    IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use serde_json::json;
use sluicebox_processors::MAX_COMPONENT;
use tokio::io::AsyncWrite;

use crate::error::Error;
use crate::plugins::sha256;

/// The prefix of a reference to a registry on the command line.
const SCHEME: &str = "oci://";
const LAYER: &str = "application/wasm";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// How large a manifest may be: 4 MiB, as the OCI specification recommends.
const MAX_MANIFEST: usize = 4 << 20;
/// How long a registry may take to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(15);
/// How long a registry may send nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// A plugin in a registry, such as `oci://ghcr.io/example/shout:1.2.0`.
pub(crate) struct Place {
    reference: Reference,
    client: Client,
    identity: RegistryAuth,
}

impl Place {
    /// The place that an argument names; `None` if it names a file or a folder.
    ///
    /// # Errors
    /// If it is not a valid reference, or the saved credentials for its registry cannot be read.
    pub(crate) fn parse(argument: &str) -> Result<Option<Self>, Error> {
        let Some(text) = argument.strip_prefix(SCHEME) else { return Ok(None) };
        let reference: Reference = text.parse().map_err(|error| {
            Error::Usage(format!("{argument}: {error}; expected oci://REGISTRY/NAME:TAG"))
        })?;
        // The whole program uses one provider of TLS; a second call fails because it is set already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registry = reference.resolve_registry().to_owned();
        let protocol = if is_loopback(&registry) { ClientProtocol::Http } else { ClientProtocol::Https };
        let client = Client::try_from(ClientConfig {
            protocol,
            connect_timeout: Some(CONNECT_TIME),
            read_timeout: Some(SILENCE),
            ..ClientConfig::default()
        });
        let client = client.map_err(|error| Error::Failed(format!("{argument}: {error}")))?;
        let identity = identity(&registry)?;
        Ok(Some(Self { reference, client, identity }))
    }

    /// The last part of the repository's name: the default name of the plugin.
    pub(crate) fn name(&self) -> &str {
        self.reference.repository().rsplit('/').next().unwrap_or_default()
    }

    /// The version in the tag: `1.2.0` of `1.2.0` and of `v1.2.0`. `None` if the tag is not a version.
    pub(crate) fn version(&self) -> Option<&str> {
        let tag = self.reference.tag()?;
        let version = tag.strip_prefix('v').unwrap_or(tag);
        let is_version = version.contains('.') && version.starts_with(|first: char| first.is_ascii_digit());
        is_version.then_some(version)
    }

    /// The component of the plugin, with the digest in the manifest.
    ///
    /// # Errors
    /// If the registry cannot be reached or refuses, has no plugin there, or sends more than the manifest says.
    pub(crate) fn pull(&self) -> Result<Vec<u8>, Error> {
        wait(async {
            let manifest = self.manifest().await?;
            let layer = self.layer(&manifest)?;
            let mut component =
                Bounded { bytes: Vec::new(), limit: usize::try_from(layer.size).unwrap_or(0) };
            let pulled = self.client.pull_blob(&self.reference, layer, &mut component).await;
            pulled.map_err(|error| self.failed(&error))?;
            Ok(component.bytes)
        })
    }

    /// The manifest of the plugin. `oci_client` reads one of any length into memory: here it has a limit.
    async fn manifest(&self) -> Result<OciImageManifest, Error> {
        let wrong = |what: String| Error::Failed(format!("{SCHEME}{}: {what}", self.reference));
        let token = self.client.auth(&self.reference, &self.identity, RegistryOperation::Pull).await;
        let token = token.map_err(|error| self.failed(&error))?;
        let registry = self.reference.resolve_registry();
        let scheme = if is_loopback(registry) { "http" } else { "https" };
        let version = self.reference.digest().or(self.reference.tag()).unwrap_or("latest");
        let url = format!("{scheme}://{registry}/v2/{}/manifests/{version}", self.reference.repository());
        let unreachable = |error: reqwest::Error| wrong(error.without_url().to_string());
        let client = reqwest::Client::builder().connect_timeout(CONNECT_TIME).read_timeout(SILENCE).build();
        let request = client.map_err(unreachable)?.get(&url);
        let request = request.header("accept", [OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE].join(", "));
        let request = match (&token, &self.identity) {
            (Some(token), _) => request.bearer_auth(token),
            (None, RegistryAuth::Basic(user, password)) => request.basic_auth(user, Some(password)),
            (None, _) => request,
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(unreachable)? {
            if body.len() + part.len() > MAX_MANIFEST {
                return Err(wrong(format!("the manifest has more than {MAX_MANIFEST} bytes")));
            }
            body.extend_from_slice(&part);
        }
        let status = response.status();
        if !status.is_success() {
            return Err(self.failed(&match serde_json::from_slice(&body) {
                Ok(envelope) => OciDistributionError::RegistryError { envelope, url },
                Err(_) => {
                    let message = String::new();
                    OciDistributionError::ServerError { code: status.as_u16(), url, message }
                }
            }));
        }
        if self.reference.digest().is_some_and(|digest| digest != format!("sha256:{}", sha256(&body))) {
            return Err(wrong("the manifest has another digest".to_owned()));
        }
        serde_json::from_slice(&body).map_err(|error| wrong(format!("the manifest cannot be read: {error}")))
    }

    /// The layer with the component, if it is not larger than a plugin may be.
    fn layer<'m>(&self, manifest: &'m OciImageManifest) -> Result<&'m OciDescriptor, Error> {
        let wrong = |what: String| Error::Failed(format!("{SCHEME}{}: {what}", self.reference));
        let is_too_large = |size: usize| size > MAX_COMPONENT;
        match manifest.layers.as_slice() {
            [layer] if layer.media_type == LAYER && usize::try_from(layer.size).is_ok_and(is_too_large) => {
                Err(wrong(format!(
                    "the plugin has {} bytes, more than the {MAX_COMPONENT} that a plugin may have",
                    layer.size
                )))
            }
            [layer] if layer.media_type == LAYER => Ok(layer),
            layers => {
                let found: Vec<&str> = layers.iter().map(|layer| layer.media_type.as_str()).collect();
                Err(wrong(format!("expected one layer of {LAYER}, found {}", found.join(", "))))
            }
        }
    }

    /// Uploads a component; answers with the address of the manifest.
    ///
    /// # Errors
    /// If the registry cannot be reached or refuses.
    pub(crate) fn push(&self, component: Vec<u8>) -> Result<String, Error> {
        let digest = sha256(&component);
        let config = json!({
            "created": jiff::Timestamp::now().to_string(),
            "architecture": "wasm",
            "os": "wasip2",
            "layerDigests": [format!("sha256:{digest}")],
        });
        let config = Config::new(config.to_string(), CONFIG.to_owned(), None);
        let layer = ImageLayer::new(component, LAYER.to_owned(), None);
        wait(async {
            let pushed = self.client.push(&self.reference, &[layer], config, &self.identity, None).await;
            pushed.map(|response| response.manifest_url).map_err(|error| self.failed(&error))
        })
    }

    fn failed(&self, error: &OciDistributionError) -> Error {
        let mut message = format!("{SCHEME}{}: {error}", self.reference);
        if is_refused(error) {
            let registry = self.reference.resolve_registry();
            let next = match self.identity {
                RegistryAuth::Anonymous => {
                    format!("no credentials are saved for it; `docker login {registry}` saves some")
                }
                _ => format!("it refuses the saved credentials; `docker login {registry}` replaces them"),
            };
            message = format!("{message}: {next}");
        }
        Error::Failed(message)
    }
}

/// Whether a registry refuses because of the credentials.
fn is_refused(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            true
        }
        OciDistributionError::ServerError { code, .. } => matches!(code, 401 | 403),
        OciDistributionError::RegistryError { envelope, .. } => envelope
            .errors
            .iter()
            .any(|error| matches!(error.code, OciErrorCode::Unauthorized | OciErrorCode::Denied)),
        _ => false,
    }
}

/// A component while it arrives. More bytes than the manifest says are an error.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.bytes.len().saturating_add(bytes.len()) > self.limit {
            let limit = self.limit;
            let more = format!("the registry sends more than the {limit} bytes that the manifest says");
            return Poll::Ready(Err(io::Error::other(more)));
        }
        self.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The credentials that `docker login` or a similar program saved for a registry.
fn identity(registry: &str) -> Result<RegistryAuth, Error> {
    match docker_credential::get_credential(registry) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(token)) => Ok(RegistryAuth::Bearer(token)),
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::NoCredentialConfigured
            | CredentialRetrievalError::ConfigReadError,
        ) => Ok(RegistryAuth::Anonymous),
        // The error may quote the output of a credential program.
        Err(_) => Err(Error::Failed(format!(
            "the saved credentials for {registry} in Docker's config.json cannot be read"
        ))),
    }
}

/// As with Docker, a registry on this machine needs no TLS.
fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost"
        || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn wait<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Error::Failed(error.to_string()))?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_needs_no_tls() {
        for (registry, expected) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("ghcr.io", false),
            ("localhost.example.com:5000", false),
        ] {
            assert_eq!(is_loopback(registry), expected, "{registry}");
        }
    }
}
