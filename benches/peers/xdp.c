/* Bare XDP programs, the limit of what staying in the driver can give: no parsing beyond what they need, no counters.
 * OUT is the index of the device to leave by, SINK the MAC address of the next hop. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/types.h>
#include <asm/byteorder.h>

#define SEC(name) __attribute__((section(name), used))
#define AF_INET 2

static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*bpf_fib_lookup)(void *ctx, struct bpf_fib_lookup *params, int len, __u32 flags) = (void *)BPF_FUNC_fib_lookup;

/* With another destination, out of the other device. */
static inline __attribute__((always_inline)) int away(struct xdp_md *ctx)
{
	unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const unsigned char sink[6] = { SINK };

	if (data + sizeof(struct ethhdr) > end)
		return XDP_PASS;
#pragma unroll
	for (int i = 0; i < 6; i++)
		data[i] = sink[i];
	return bpf_redirect(OUT, 0);
}

/* Every packet. */
SEC("xdp/redirect") int redirect(struct xdp_md *ctx)
{
	return away(ctx);
}

/* As that, of IPv4 only: address resolution is the kernel's. */
SEC("xdp/forward") int forward(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end || eth->h_proto != __constant_htons(ETH_P_IP))
		return XDP_PASS;
	return away(ctx);
}

/* IPv4 by the kernel's forwarding table: route, neighbour, TTL. */
SEC("xdp/fib") int fib(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + sizeof(*eth);
	struct bpf_fib_lookup fib = {};
	__u32 sum;

	if ((void *)(ip + 1) > end || eth->h_proto != __constant_htons(ETH_P_IP) || ip->ttl <= 1)
		return XDP_PASS;
	fib.family = AF_INET;
	fib.tos = ip->tos;
	fib.l4_protocol = ip->protocol;
	fib.tot_len = __builtin_bswap16(ip->tot_len);
	fib.ipv4_src = ip->saddr;
	fib.ipv4_dst = ip->daddr;
	fib.ifindex = ctx->ingress_ifindex;
	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return XDP_PASS;
	/* RFC 1624: one less in the high byte is 0x0100 more in the checksum, in network order. */
	sum = ip->check + 0x0001;
	ip->check = sum + (sum >= 0xffff);
	ip->ttl--;
	__builtin_memcpy(eth->h_dest, fib.dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, fib.smac, ETH_ALEN);
	return bpf_redirect(fib.ifindex, 0);
}

/* Every packet over IPv4 is dropped, when its source was read: the least that a list of sources can cost. */
SEC("xdp/drop") int drop(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + sizeof(*eth);

	if ((void *)(ip + 1) > end || eth->h_proto != __constant_htons(ETH_P_IP) || ip->saddr == 0)
		return XDP_PASS;
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
