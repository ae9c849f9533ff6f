//! Plugins in OCI registries, as `wkg` keeps WebAssembly there: a manifest with one layer of `application/wasm`.
//! <https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>

use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use serde_json::json;

use crate::error::Error;
use crate::plugins::sha256;

/// How a reference to a registry begins on the command line.
const SCHEME: &str = "oci://";
const LAYER: &str = "application/wasm";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// The largest component that the host loads.
const LARGEST: i64 = 64 << 20;

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
    /// If it is no reference, or the saved identity for its registry cannot be read.
    pub(crate) fn parse(argument: &str) -> Result<Option<Self>, Error> {
        let Some(text) = argument.strip_prefix(SCHEME) else { return Ok(None) };
        let reference: Reference = text.parse().map_err(|error| {
            Error::Usage(format!("{argument}: {error}; expected oci://REGISTRY/NAME:TAG"))
        })?;
        // TLS of one kind for all; the second call finds it there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registry = reference.resolve_registry().to_owned();
        let protocol = if is_loopback(&registry) { ClientProtocol::Http } else { ClientProtocol::Https };
        let client = Client::try_from(ClientConfig { protocol, ..ClientConfig::default() });
        let client = client.map_err(|error| Error::Failed(format!("{argument}: {error}")))?;
        let identity = identity(&registry)?;
        Ok(Some(Self { reference, client, identity }))
    }

    /// The last part of the repository's name: what the plugin is called unless one says otherwise.
    pub(crate) fn name(&self) -> &str {
        self.reference.repository().rsplit('/').next().unwrap_or_default()
    }

    /// The plugin's component; its digest is that of the manifest.
    ///
    /// # Errors
    /// If the registry cannot be reached or refuses, or has no plugin there.
    pub(crate) fn pull(&self) -> Result<Vec<u8>, Error> {
        wait(async {
            let (manifest, _) = self
                .client
                .pull_image_manifest(&self.reference, &self.identity)
                .await
                .map_err(|error| self.failed(&error))?;
            let layer = self.layer(&manifest)?;
            let mut component = Vec::new();
            let pulled = self.client.pull_blob(&self.reference, layer, &mut component).await;
            pulled.map_err(|error| self.failed(&error))?;
            Ok(component)
        })
    }

    /// The one layer that is a component, if it is no larger than a plugin may be.
    fn layer<'m>(&self, manifest: &'m OciImageManifest) -> Result<&'m OciDescriptor, Error> {
        let wrong = |what: String| Error::Failed(format!("{SCHEME}{}: {what}", self.reference));
        match manifest.layers.as_slice() {
            [layer] if layer.media_type == LAYER && layer.size > LARGEST => {
                Err(wrong(format!("{} bytes are more than the {LARGEST} that a plugin may have", layer.size)))
            }
            [layer] if layer.media_type == LAYER => Ok(layer),
            layers => {
                let found: Vec<&str> = layers.iter().map(|layer| layer.media_type.as_str()).collect();
                Err(wrong(format!("expected one layer of {LAYER}, found {}", found.join(", "))))
            }
        }
    }

    /// Puts a component there; answers with the manifest's address.
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

    fn failed(&self, error: &oci_client::errors::OciDistributionError) -> Error {
        Error::Failed(format!("{SCHEME}{}: {error}", self.reference))
    }
}

/// Who one is at a registry: what `docker login` and its like saved, else nobody.
fn identity(registry: &str) -> Result<RegistryAuth, Error> {
    match docker_credential::get_credential(registry) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(token)) => Ok(RegistryAuth::Bearer(token)),
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::NoCredentialConfigured
            | CredentialRetrievalError::ConfigReadError,
        ) => Ok(RegistryAuth::Anonymous),
        // What a program for credentials printed may hold one.
        Err(_) => Err(Error::Failed(format!(
            "the identity for {registry} that is saved in Docker's config.json cannot be read"
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
