# Panics on purpose. What follows the panic must never be believed.
echo "ok about-to-panic"
echo 1 > /proc/sys/kernel/sysrq
echo c > /proc/sysrq-trigger
sleep 30
