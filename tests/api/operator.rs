//! The operator, in a runtime of its own that can die as abruptly as a process does.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Parser;
use serin::{
    router::{
        Registry,
        envoy::{Envoy, Prober},
    },
    runtime::settings::Settings,
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use testkit::free_port;

use crate::server::Server;

/// User and pod name of the operator.
pub const FIRST: &str = "serin-operator-1";
/// User and pod name of a second one.
pub const SECOND: &str = "serin-operator-2";

/// A running operator; killed when dropped.
pub struct Operator {
    runtime: Option<Runtime>,
    /// Where it answers over HTTP.
    pub http: SocketAddr,
}

impl Operator {
    /// Starts an operator that looks after one namespace, and has its lease and routers there too.
    pub fn start(
        server: &'static Server,
        pod: &'static str,
        namespace: &str,
        prometheus: &str,
        serving_image: &str,
        routers_answer: Arc<AtomicBool>,
    ) -> Self {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let settings = Settings::parse_from([
            "serin-operator",
            "--prometheus-url",
            prometheus,
            "--scrape-interval",
            "1s",
            "--serving-image",
            serving_image,
            "--allowed-model-schemes",
            "file,oci",
            "--allowed-model-hosts",
            "registry.example.com",
            "--namespace",
            namespace,
            "--watch-namespace",
            namespace,
            "--pod-name",
            pod,
            "--xds-address",
            "127.0.0.1:0",
            "--http-address",
            &http.to_string(),
            "--lease-duration",
            "5s",
        ]);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let prober = Prober::asking(move |_| {
            Box::pin(std::future::ready(routers_answer.load(Ordering::Relaxed)))
        });
        let router = Arc::new(Envoy::new(&settings.router_setup(), prober));
        let routers = Registry::new(router, Vec::new());
        let stop = CancellationToken::new();
        runtime.spawn(async move {
            let result =
                serin::runtime::operator::run_with(server.client(pod), settings, routers, stop)
                    .await;
            if let Err(error) = result {
                println!("the operator {pod} ended: {error}");
            }
        });
        Self {
            runtime: Some(runtime),
            http,
        }
    }

    /// Ends it as SIGKILL does, at any point of its work.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.kill();
    }
}
