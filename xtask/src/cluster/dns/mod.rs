//! The cluster's name server, over watches of Services and Endpoints.

mod zone;

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, future};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{MessageType, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::SOA;
use hickory_server::proto::rr::{Name, RData, Record};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource, ResourceExt};
use kube_runtime::reflector::{self, Store};
use kube_runtime::{WatchStreamExt, watcher};
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, UdpSocket};

use self::zone::{Answer, TTL, Zone};
use super::config::{DOMAIN, NODE_ADDRESS};
use super::layout::State;

/// Runs for ever.
#[tokio::main(flavor = "current_thread")]
pub async fn run(state: &State) -> Result<()> {
    let kubeconfig = Kubeconfig::read_from(state.kubeconfig("dns"))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let handler = Names {
        services: watch(Api::all(client.clone())),
        endpoints: watch(Api::all(client)),
        authority: authority()?,
    };
    // An answer from half a list would be a lie: no socket before the lists are whole.
    handler.services.wait_until_ready().await?;
    handler.endpoints.wait_until_ready().await?;

    let address = (NODE_ADDRESS, 53);
    let mut server = Server::new(handler);
    server.register_socket(
        UdpSocket::bind(address)
            .await
            .context("cannot listen on UDP port 53")?,
    );
    server.register_listener(
        TcpListener::bind(address)
            .await
            .context("cannot listen on TCP port 53")?,
        Duration::from_secs(5),
        4096,
    );
    eprintln!("answering for {DOMAIN} on {NODE_ADDRESS}:53");
    server.block_until_done().await?;
    bail!("the server ended")
}

/// All objects of one kind, kept up to date in the background.
fn watch<K>(api: Api<K>) -> Store<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer);
    tokio::spawn(stream.for_each(|event| {
        if let Err(error) = event {
            eprintln!("watching {}: {error}", K::kind(&()));
        }
        future::ready(())
    }));
    reader
}

/// Who answers for the zone; in a negative answer, its TTL is how long that may be kept.
fn authority() -> Result<Record> {
    let zone = Name::from_utf8(format!("{DOMAIN}."))?;
    let server = Name::from_utf8(format!("ns.dns.{DOMAIN}."))?;
    let contact = Name::from_utf8(format!("hostmaster.{DOMAIN}."))?;
    let start = SOA::new(server, contact, 1, 7200, 1800, 86400, TTL);
    Ok(Record::from_rdata(zone, TTL, RData::SOA(start)))
}

struct Names {
    services: Store<Service>,
    endpoints: Store<Endpoints>,
    authority: Record,
}

#[async_trait::async_trait]
impl RequestHandler for Names {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut to: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.message_type = MessageType::Response;
        metadata.authoritative = true;
        metadata.recursion_available = true;

        let mut records = Vec::new();
        let mut authority = None;
        match request.request_info() {
            Ok(question) if request.metadata.op_code == OpCode::Query => {
                let zone = Zone {
                    services: self.services.state(),
                    endpoints: self.endpoints.state(),
                };
                match zone.answer(
                    question.query.original().name(),
                    question.query.query_type(),
                ) {
                    Answer::Records(found) => records = found,
                    Answer::NoData => authority = Some(&self.authority),
                    Answer::Unknown => {
                        metadata.response_code = ResponseCode::NXDomain;
                        authority = Some(&self.authority);
                    }
                }
            }
            Ok(_) => metadata.response_code = ResponseCode::NotImp,
            Err(_) => metadata.response_code = ResponseCode::FormErr,
        }
        let response = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            &records,
            [],
            authority,
            [],
        );
        match to.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                eprintln!("cannot answer {}: {error}", request.src());
                let mut metadata = Metadata::response_from_request(&request.metadata);
                metadata.response_code = ResponseCode::ServFail;
                hickory_server::proto::op::Header {
                    metadata,
                    counts: hickory_server::proto::op::HeaderCounts::default(),
                }
                .into()
            }
        }
    }
}
