//! What hostile peers can make a cloud hold. Cloud and peers run on the test's one thread, so the
//! peers' own memory is counted as well.

use edgeprompt_protocol::frame::MESSAGE_BYTES_MAX;
use edgeprompt_testkit::counting_allocator::{CountingAllocator, PeakMeter};

use super::{Domain, any_port, check_fetch, config, fetch_of};
use crate::EdgeEndpoint;
use crate::config::REQUEST_STREAMS_MAX;
use crate::edge_count::LINKS_PER_EDGE_MAX;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// For all connections of the test, both ends of each: a message that has begun takes 64 KiB.
const HELD_BYTES_MAX: usize = 32 << 20;

#[tokio::test]
async fn messages_that_claim_much_and_bring_little_cost_little() {
    let domain = Domain::start();
    let (addr, rogue) = (domain.addr, domain.join());
    let rogue = EdgeEndpoint::bind(any_port(), &rogue, config()).unwrap();
    let (honest, _edge, _server) = domain.serve_edge().await;
    let claimed = u32::try_from(MESSAGE_BYTES_MAX).unwrap().to_le_bytes();

    let meter = PeakMeter::start();
    let (mut links, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..LINKS_PER_EDGE_MAX {
        let link = rogue.connect(addr).await.unwrap();
        for _ in 0..REQUEST_STREAMS_MAX {
            let (mut send, receive) = link.shared.connection.open_bi().await.unwrap();
            let beginning = [&claimed[..], &[0; 100]].concat();
            send.write_all(&beginning).await.unwrap();
            streams.push((send, receive));
        }
        links.push(link);
    }
    // Answered after the cloud has seen what was sent before on the other links.
    check_fetch(&honest, fetch_of(1)).await;
    let peak = meter.peak();
    assert!(
        streams.len() * MESSAGE_BYTES_MAX > 10 * HELD_BYTES_MAX,
        "the claims are large"
    );
    assert!(peak <= HELD_BYTES_MAX, "{peak} bytes were held at a time");
}
