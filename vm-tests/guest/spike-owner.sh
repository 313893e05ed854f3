# Owner, UMEM and next hop: a node with two NICs between two neighbours. Names and addresses as in topology.rs.
set -e
sysctl -q -w net.ipv6.conf.all.disable_ipv6=1

neighbour() { # namespace, its interface, its address, the node's interface, the node's address
    ip netns add "$1"
    ip link set "$2" netns "$1"
    ip -n "$1" addr add "$3/24" dev "$2"
    ip -n "$1" link set lo up
    ip -n "$1" link set "$2" up
    ip addr add "$5/24" dev "$4"
    # Without this igb hashes addresses only and all flows of a link land on one queue. (Behind a hub virtio has one.)
    case "$(ethtool -i "$4")" in
    *igb*) ethtool -N "$4" rx-flow-hash udp4 sdfn ;;
    esac
    # The kernel's own stack must not merge what the XDP program passes to it, nor the NIC strip tags.
    ethtool -K "$4" gro off rxvlan off || true
    ip link set "$4" up
}

neighbour left  p0b 10.71.0.2 p0a 10.71.0.1
neighbour right p1b 10.71.1.2 p1a 10.71.1.1
exec spike-owner "$(ls -d /sys/class/net/p0a/queues/rx-* | wc -l)"
