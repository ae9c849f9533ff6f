//! SeaweedFS, an object store that speaks S3. All tests of a program share one.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::workspace::wait::{PATIENCE, wait_for};

/// Identities, for every bucket: `admin` may do everything, `reader` may list and read, `lister` may list.
const IDENTITIES: &str = r#"{"identities": [
  {"name": "admin", "credentials": [{"accessKey": "admin", "secretKey": "admin-secret"}],
   "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
  {"name": "reader", "credentials": [{"accessKey": "reader", "secretKey": "reader-secret"}],
   "actions": ["Read", "List"]},
  {"name": "lister", "credentials": [{"accessKey": "lister", "secretKey": "lister-secret"}],
   "actions": ["List"]}
]}"#;

pub(crate) struct S3 {
    pub(crate) port: u16,
    runtime: Runtime,
    client: Client,
    _folder: TempDir,
    _server: Child,
}

/// Free ports.
fn free_ports<const N: usize>() -> [u16; N] {
    // For each of its ports, SeaweedFS also listens on port + 10000.
    let free = || {
        let high = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let low = high.local_addr().unwrap().port() - 10_000;
        TcpListener::bind((Ipv4Addr::LOCALHOST, low)).ok().map(|listener| (low, listener, high))
    };
    let found = [(); N].map(|()| (0..1000).find_map(|_| free()).unwrap());
    found.map(|(port, ..)| port)
}

fn program() -> PathBuf {
    std::env::var_os("SLUICEBOX_WEED")
        .expect("`cargo xtask test` installs SeaweedFS and says where it is")
        .into()
}

/// The server. The first test that needs it starts it.
pub(crate) fn server() -> &'static S3 {
    static SERVER: OnceLock<S3> = OnceLock::new();
    SERVER.get_or_init(S3::start)
}

#[expect(dead_code, reason = "not every test needs every way to work")]
impl S3 {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("identities.json"), IDENTITIES).unwrap();
        let [s3, master, volume, filer] = free_ports();
        // The shell ends the server when this program's end of its input is closed, however the program ends.
        let script = "\"$0\" \"$@\" & server=$!; read -r _; kill -9 $server";
        let server = Command::new("sh")
            .arg("-c")
            .arg(script)
            .arg(program())
            .arg("server")
            .arg(format!("-dir={}", folder.path().display()))
            .args([
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-master.volumeSizeLimitMB=100",
                "-volume.max=1000",
                "-s3",
            ])
            .arg(format!("-s3.port={s3}"))
            .arg(format!("-master.port={master}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-filer.port={filer}"))
            .arg(format!("-s3.config={}", folder.path().join("identities.json").display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, s3));
        wait_for("SeaweedFS to accept connections", || TcpStream::connect(address).ok());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = Client::from_conf(
            aws_sdk_s3::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new("us-east-1"))
                .endpoint_url(format!("http://127.0.0.1:{s3}"))
                .force_path_style(true)
                .timeout_config(TimeoutConfig::builder().operation_timeout(PATIENCE).build())
                .http_client(aws_smithy_http_client::Builder::new().build_http())
                .request_checksum_calculation(aws_sdk_s3::config::RequestChecksumCalculation::WhenRequired)
                .retry_config(aws_sdk_s3::config::retry::RetryConfig::standard().with_max_attempts(20))
                .credentials_provider(Credentials::new("admin", "admin-secret", None, None, "tests"))
                .build(),
        );
        Self { port: s3, runtime, client, _folder: folder, _server: server }
    }

    pub(crate) fn bucket(&self, name: &str) {
        self.runtime.block_on(self.client.create_bucket().bucket(name).send()).unwrap();
    }

    pub(crate) fn put(&self, bucket: &str, key: &str, content: impl Into<Vec<u8>>) {
        let content = ByteStream::from(content.into());
        // A server that has just started may have no volume yet. The SDK tries again.
        let put = self.client.put_object().bucket(bucket).key(key).body(content);
        self.runtime.block_on(put.send()).unwrap();
    }

    /// Uploads a file in parts.
    pub(crate) fn put_in_parts(&self, bucket: &str, key: &str, parts: impl Iterator<Item = Vec<u8>>) {
        self.runtime.block_on(async {
            let begun = self.client.create_multipart_upload().bucket(bucket).key(key).send().await.unwrap();
            let id = begun.upload_id().unwrap();
            let mut done = aws_sdk_s3::types::CompletedMultipartUpload::builder();
            for (number, part) in (1..).zip(parts) {
                let upload =
                    self.client.upload_part().bucket(bucket).key(key).upload_id(id).part_number(number);
                let part = upload.body(part.into()).send().await.unwrap();
                let part = aws_sdk_s3::types::CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(part.e_tag().map(str::to_owned));
                done = done.parts(part.build());
            }
            let end = self.client.complete_multipart_upload().bucket(bucket).key(key).upload_id(id);
            end.multipart_upload(done.build()).send().await.unwrap();
        });
    }

    pub(crate) fn delete(&self, bucket: &str, key: &str) {
        self.runtime.block_on(self.client.delete_object().bucket(bucket).key(key).send()).unwrap();
    }

    pub(crate) fn get(&self, bucket: &str, key: &str) -> Vec<u8> {
        self.runtime.block_on(async {
            let object = self.client.get_object().bucket(bucket).key(key).send().await.unwrap();
            object.body.collect().await.unwrap().to_vec()
        })
    }

    /// The keys in a bucket, sorted.
    pub(crate) fn keys(&self, bucket: &str) -> Vec<String> {
        let listed = self.client.list_objects_v2().bucket(bucket).send();
        let listed = self.runtime.block_on(listed).unwrap();
        listed.contents().iter().map(|object| object.key().unwrap().to_owned()).collect()
    }

    /// Uploads in parts that have begun and not ended: key and id.
    pub(crate) fn uploads(&self, bucket: &str) -> Vec<(String, String)> {
        let listed = self.client.list_multipart_uploads().bucket(bucket).send();
        let listed = self.runtime.block_on(listed).unwrap();
        let name = |upload: &aws_sdk_s3::types::MultipartUpload| {
            (upload.key().unwrap().to_owned(), upload.upload_id().unwrap().to_owned())
        };
        listed.uploads().iter().map(name).collect()
    }

    /// The number of parts that an upload has; 0 if it has ended.
    pub(crate) fn parts(&self, bucket: &str, (key, id): &(String, String)) -> usize {
        let listed = self.client.list_parts().bucket(bucket).key(key).upload_id(id).send();
        self.runtime.block_on(listed).map_or(0, |listed| listed.parts().len())
    }

    /// The `[location]` of a connection to a bucket. `port` is that of a proxy, if there is one.
    pub(crate) fn location(&self, bucket: &str, key: &str, port: Option<u16>) -> String {
        format!(
            "[location]\nkind = 's3'\nbucket = '{bucket}'\nregion = 'us-east-1'\npath_style = true\n\
             endpoint = 'http://127.0.0.1:{}'\naccess_key_id = '{key}'\nsecret_access_key = {{ file = 'secret' }}\n",
            port.unwrap_or(self.port)
        )
    }
}
