# The smallest job: this kernel comes up under this QEMU with what every other test stands on.
fail() { echo "FAIL $1: $2"; code=1; }
code=0

if grep -q ' /sys/fs/bpf bpf ' /proc/mounts; then echo "ok bpffs"; else fail bpffs "not mounted"; fi
for nic in p0a p0b; do
    if [ -e "/sys/class/net/$nic" ]; then echo "ok nic-$nic"; else fail "nic-$nic" "not found by its MAC"; fi
done
driver=$(ethtool -i p0a | sed -n 's/^driver: //p')
if [ "$driver" = igb ]; then echo "ok driver"; else fail driver "p0a is driven by '$driver'"; fi
if ip link add v0 type veth peer name v1; then echo "ok veth"; else fail veth "cannot be made"; fi
ip link set v0 up
ip link set v1 up
# The verifier of this very kernel judges the program; on a veth and on a NIC, in the driver.
ip link set p0a up
ebpf-load v0 p0a || code=1
exit $code
