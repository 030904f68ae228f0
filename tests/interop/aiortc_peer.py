"""aiortc_peer.py: calls a tandem edge from aiortc (its own ICE, OpenSSL's DTLS, libsrtp's SRTP) and records what it hears.

  --edge URL --call-id ID --play SAID.wav --record HEARD.wav --seconds N
  --setup actpass|active|passive   what the offer says of DTLS        --profile NAME   the only SRTP profile it offers
  --address IP                     the only host address it has
  --rsa certificate|suites         an RSA certificate, alone or with CBC suites only
  --from NUMBER                    who calls                            --patience N   seconds to connect in
  --token TOKEN                    of the edge

Prints one line of JSON: answer, profile, dtls (its role), nominated (the address of tandem that ICE chose), heard (packets), remote
(what tandem reports of its stream: packetsLost, fractionLost, jitter, roundTripTime), names (of each SSRC, by SDES), bye (the SSRCs
that said so); where DTLS fails: failed (its state)."""
import argparse, asyncio, datetime, json, urllib.request

import aioice.ice
import aiortc.rtcdtlstransport as dtls
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer, MediaRecorder
from aiortc.rtp import RtcpByePacket, RtcpPacket, RtcpSdesPacket

arguments = argparse.ArgumentParser()
for name in ("edge", "call-id", "play", "record", "address"):
    arguments.add_argument("--" + name, required=True)
arguments.add_argument("--seconds", type=float, required=True)
arguments.add_argument("--setup", default="actpass")
arguments.add_argument("--profile")
arguments.add_argument("--patience", type=float, default=15)
arguments.add_argument("--rsa", choices=["certificate", "suites"])
arguments.add_argument("--from", dest="caller")
arguments.add_argument("--token")
chosen = arguments.parse_args()

# The candidates of one address: which IP version carries the call is the test's choice.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: [chosen.address]
if chosen.profile:
    dtls.SRTP_PROFILES[:] = [known for known in dtls.SRTP_PROFILES if known.openssl_profile.decode() == chosen.profile]
    assert dtls.SRTP_PROFILES, "this libsrtp does not have " + chosen.profile

if chosen.rsa:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import rsa

    def generate(cls):
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rsa")])
        now = datetime.datetime.now(tz=datetime.timezone.utc)
        day = datetime.timedelta(days=1)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        builder = builder.serial_number(1).not_valid_before(now - day).not_valid_after(now + day)
        return cls(key=key, cert=builder.sign(key, hashes.SHA256()))

    context_before = dtls.RTCCertificate._create_ssl_context

    def context(self, srtp_profiles):
        made = context_before(self, srtp_profiles)
        if chosen.rsa == "suites":
            made.set_cipher_list(b"AES128-SHA:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA")
        return made

    dtls.RTCCertificate.generateCertificate = classmethod(generate)
    dtls.RTCCertificate._create_ssl_context = context


def post(path, body):
    headers = {"content-type": "application/json"}
    if chosen.token:
        headers["authorization"] = "Bearer " + chosen.token
    request = urllib.request.Request(chosen.edge + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


CNAME = 1
names, bye = {}, []
handle_rtcp = dtls.RTCDtlsTransport._handle_rtcp_data


async def on_rtcp(self, data):
    for packet in RtcpPacket.parse(data):
        if isinstance(packet, RtcpSdesPacket):
            for chunk in packet.chunks:
                names[chunk.ssrc] = dict(chunk.items)[CNAME].decode()
        if isinstance(packet, RtcpByePacket):
            bye.extend(packet.sources)
    await handle_rtcp(self, data)


dtls.RTCDtlsTransport._handle_rtcp_data = on_rtcp


async def main():
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    recorder = MediaRecorder(chosen.record)
    settled = asyncio.Event()

    @peer.on("track")
    def on_track(track):
        recorder.addTrack(track)

    @peer.on("connectionstatechange")
    def on_state():
        if peer.connectionState in ("connected", "failed", "closed"):
            settled.set()

    sender = peer.addTrack(MediaPlayer(chosen.play, loop=True).audio)
    await peer.setLocalDescription(await peer.createOffer())
    offer = peer.localDescription.sdp.replace("a=setup:actpass", "a=setup:" + chosen.setup)
    new = {"call_id": chosen.call_id, "sdp_offer": offer}
    if chosen.caller:
        new["from"] = chosen.caller
    created = await asyncio.to_thread(post, "/webrtc/new", new)
    await peer.setRemoteDescription(RTCSessionDescription(sdp=created["sdp_answer"], type="answer"))
    await asyncio.wait([asyncio.create_task(settled.wait())], timeout=chosen.patience)
    if peer.connectionState != "connected":
        print(json.dumps({"failed": peer.connectionState}))
        await peer.close()
        return
    await recorder.start()
    await asyncio.sleep(chosen.seconds)
    # A report that answers one of ours comes every five seconds, give or take a half.
    for _ in range(80):
        stats = (await peer.getStats()).values()
        remote = next((entry for entry in stats if entry.type == "remote-inbound-rtp"), None)
        if remote and remote.roundTripTime is not None:
            break
        await asyncio.sleep(0.1)
    inbound = next(entry for entry in stats if entry.type == "inbound-rtp")
    remote = remote and {name: getattr(remote, name) for name in ("packetsLost", "fractionLost", "jitter", "roundTripTime")}
    transport = sender.transport
    pair = transport.transport._connection._nominated[1]
    profile = transport._ssl.get_selected_srtp_profile().decode()
    await recorder.stop()
    await asyncio.to_thread(post, "/webrtc/hangup", {"edge_session_id": created["edge_session_id"]})
    for _ in range(20):
        if not bye:
            await asyncio.sleep(0.05)
    await peer.close()
    print(json.dumps({"answer": created["sdp_answer"], "profile": profile, "dtls": transport._role,
                      "nominated": pair.remote_addr[0], "heard": inbound.packetsReceived,
                      "remote": remote, "names": names, "bye": bye}))


asyncio.run(main())
