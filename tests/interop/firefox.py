"""firefox.py: calls a tandem edge from headless Firefox and records what it hears. Speaks Marionette itself: no geckodriver.

  --edge URL --folder FOLDER --seconds N --setup actpass|active|passive ...      one call for each --setup

Firefox's fake microphone is a tone; it takes no file. Writes <setup>.ogg, prints one line of JSON a call: setup, answer, stats."""
import argparse, base64, http.server, json, os, shutil, socket, subprocess, tempfile, threading, time, urllib.request

PORT = 2828
PREFERENCES = {
    "marionette.port": PORT,
    "media.navigator.streams.fake": True, "media.navigator.permission.disabled": True,
    "media.autoplay.default": 0, "media.autoplay.blocking_policy": 0,
    "media.getusermedia.insecure.enabled": True, "media.devices.insecure.enabled": True,
    "media.peerconnection.ice.obfuscate_host_addresses": False,
    "browser.shell.checkDefaultBrowser": False, "browser.aboutwelcome.enabled": False, "browser.startup.page": 0,
    # There is nobody to ask in a namespace of its own; asking costs seconds.
    "app.update.enabled": False, "datareporting.policy.dataSubmissionEnabled": False, "toolkit.telemetry.enabled": False,
    "network.captive-portal-service.enabled": False, "network.connectivity-service.enabled": False,
    "services.settings.server": "http://127.0.0.1:9/", "media.gmp-manager.url": "",
    "browser.safebrowsing.downloads.remote.enabled": False, "extensions.systemAddon.update.enabled": False,
}
OFFER = """
const page = window.wrappedJSObject || window;
const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
const pc = page.pc = new RTCPeerConnection();
page.chunks = [];
pc.ontrack = event => {
  const heard = event.streams[0] || new MediaStream([event.track]);
  page.element = new Audio(); page.element.srcObject = heard; page.element.play();
  page.recorder = new MediaRecorder(heard);
  page.recorder.ondataavailable = chunk => page.chunks.push(chunk.data);
  page.recorder.start(500);
};
pc.addTransceiver(stream.getAudioTracks()[0], { streams: [stream], direction: 'sendrecv' });
await pc.setLocalDescription(await pc.createOffer());
await new Promise(done => {
  const look = () => pc.iceGatheringState === 'complete' && done();
  pc.onicegatheringstatechange = look; look(); setTimeout(done, 4000);
});
return pc.localDescription.sdp;
"""
CALL = """
const page = window.wrappedJSObject || window, pc = page.pc;
await pc.setRemoteDescription({ type: 'answer', sdp: given[0] });
await new Promise((done, failed) => {
  const look = () => pc.connectionState === 'connected' && done();
  pc.onconnectionstatechange = look; look(); setTimeout(() => failed('state ' + pc.connectionState), 15000);
});
await new Promise(done => setTimeout(done, given[1] * 1000));
const stats = [];
(await pc.getStats()).forEach(entry => stats.push(entry));
page.recorder.stop();
await new Promise(done => setTimeout(done, 500));
const bytes = new Uint8Array(await new Blob(page.chunks).arrayBuffer());
let text = '';
for (let at = 0; at < bytes.length; at += 30000) text += String.fromCharCode(...bytes.subarray(at, at + 30000));
pc.close();
return { stats: JSON.stringify(stats), heard: btoa(text) };
"""

arguments = argparse.ArgumentParser()
arguments.add_argument("--edge", required=True)
arguments.add_argument("--folder", required=True)
arguments.add_argument("--seconds", type=float, required=True)
arguments.add_argument("--setup", action="append", required=True)
chosen = arguments.parse_args()


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>caller</title>")

    def log_message(self, *_):
        pass


class Marionette:
    """Its protocol: <length>:<JSON>, a command [0, id, name, parameters], an answer [1, id, error, result]."""

    def __init__(self):
        for _ in range(240):
            try:
                self.socket = socket.create_connection(("127.0.0.1", PORT), 1)
                break
            except OSError:
                time.sleep(0.25)
        self.socket.settimeout(60)
        self.unread = b""
        self.receive()

    def receive(self):
        while b":" not in self.unread:
            self.unread += self.socket.recv(65536)
        length, self.unread = self.unread.split(b":", 1)
        while len(self.unread) < int(length):
            self.unread += self.socket.recv(1 << 20)
        message, self.unread = self.unread[: int(length)], self.unread[int(length):]
        return json.loads(message)

    def command(self, name, parameters):
        message = json.dumps([0, 1, name, parameters]).encode()
        self.socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self.receive()
        if error:
            raise RuntimeError(error["message"])
        return result

    def run(self, script, *given):
        wrapped = ("const done = arguments[arguments.length - 1], given = arguments;"
                   "(async () => {" + script + "})().then(done, error => done({ error: String(error) }))")
        parameters = {"script": wrapped, "args": list(given), "newSandbox": False, "sandbox": None}
        value = self.command("WebDriver:ExecuteAsyncScript", parameters)["value"]
        if isinstance(value, dict) and "error" in value:
            raise RuntimeError(value["error"])
        return value


def post(path, body):
    request = urllib.request.Request(chosen.edge + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


profile = tempfile.mkdtemp(prefix="firefox-", dir=chosen.folder)
with open(os.path.join(profile, "user.js"), "w") as file:
    for name, value in PREFERENCES.items():
        file.write("user_pref(%s, %s);\n" % (json.dumps(name), json.dumps(value)))
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()
log = open(os.path.join(chosen.folder, "firefox.log"), "w")
environment = dict(os.environ, HOME=profile, MOZ_DISABLE_CONTENT_SANDBOX="1")
browser = subprocess.Popen(["firefox-esr", "--headless", "--no-remote", "--marionette", "--profile", profile],
                           stdout=log, stderr=subprocess.STDOUT, env=environment)
try:
    marionette = Marionette()
    marionette.command("WebDriver:NewSession", {})
    marionette.command("WebDriver:SetTimeouts", {"script": 50000})
    for setup in chosen.setup:
        marionette.command("WebDriver:Navigate", {"url": "http://localhost:%d/" % server.server_port})
        offer = marionette.run(OFFER).replace("a=setup:actpass", "a=setup:" + setup)
        with open(os.path.join(chosen.folder, setup + ".sdp"), "w", newline="") as file:
            file.write(offer)
        created = post("/webrtc/new", {"call_id": "firefox-" + setup, "sdp_offer": offer})
        seen = marionette.run(CALL, created["sdp_answer"], chosen.seconds)
        post("/webrtc/hangup", {"edge_session_id": created["edge_session_id"]})
        with open(os.path.join(chosen.folder, setup + ".ogg"), "wb") as file:
            file.write(base64.b64decode(seen["heard"]))
        print(json.dumps({"setup": setup, "answer": created["sdp_answer"], "stats": json.loads(seen["stats"])}), flush=True)
finally:
    browser.terminate()
    browser.wait(10)
    shutil.rmtree(profile, ignore_errors=True)
