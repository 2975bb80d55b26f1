// The camera, where the browser has one and the user allows it: what it sees is classified again and again until it is
// stopped. `classify(blob, true)` classifies a frame; the result stops the camera.
function camera(classify, say) {
  const button = document.getElementById('live'), video = document.getElementById('video');
  const drop = document.getElementById('drop'), canvas = document.createElement('canvas');
  let stream = null;
  const stop = () => {
    stream?.getTracks().forEach(track => track.stop());
    stream = video.srcObject = null;
    video.hidden = true;
    drop.hidden = false;
    button.textContent = 'Use the camera';
  };
  const look = async () => {
    while (stream) {
      if (video.videoWidth) {
        [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
        canvas.getContext('2d').drawImage(video, 0, 0);
        const frame = await new Promise(done => canvas.toBlob(done, 'image/jpeg', 0.95));
        if (stream) await classify(frame, true);
      }
      await new Promise(done => setTimeout(done, 150));
    }
  };
  button.hidden = !navigator.mediaDevices?.getUserMedia;
  button.addEventListener('click', async () => {
    if (stream) return stop();
    try {
      stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}});
    } catch {
      return say('The browser gives no access to a camera.', true);
    }
    video.srcObject = stream;
    [video.hidden, drop.hidden] = [false, true];
    button.textContent = 'Stop the camera';
    await video.play();
    look();
  });
  return stop;
}
