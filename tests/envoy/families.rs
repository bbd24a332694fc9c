//! IPv4 and IPv6: one router answers on both, and one whose kernel has no IPv6 on IPv4.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use testkit::free_port;

use crate::{
    envoy_or_skip,
    harness::{Envoy, Plane, Upstream, client, model, predict_at, predict_once, wait},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_answers_on_the_families_that_its_kernel_has() {
    let binary = envoy_or_skip!();
    let Ok(probe) = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        println!("skipped: this kernel has no IPv6");
        return;
    };
    drop(probe);
    for (if_inet6, both) in [("/proc/net/if_inet6", true), ("/proc/net/none", false)] {
        let (xds, port) = (free_port(), free_port());
        let plane = Plane::start(xds);
        let router = Envoy::start_seeing(&binary, "router-1", xds, if_inet6);
        let pod = Upstream::start_at(Ipv6Addr::LOCALHOST.into(), "aaaaaaaa", Duration::ZERO).await;
        let published = model("churn", port, &[(&pod, 100)]);
        plane.publish_acknowledged(&published, "churn").await;
        wait("the model answers", async || {
            predict_once(&client(), port).await.0 == 200
        })
        .await;
        for (port, what) in [(port, "the model"), (router.stats, "the stats page")] {
            let connects = |address: SocketAddr| std::net::TcpStream::connect(address).is_ok();
            assert!(connects((Ipv4Addr::LOCALHOST, port).into()), "{what}");
            assert_eq!(connects((Ipv6Addr::LOCALHOST, port).into()), both, "{what}");
        }
        if both {
            let answer = predict_at(&client(), (Ipv6Addr::LOCALHOST, port).into()).await;
            assert_eq!(answer, (200, "aaaaaaaa".to_owned()));
        }
    }
}
