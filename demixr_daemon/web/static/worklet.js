// The engine in the browser's audio thread.
import {Engine, QUANTUM} from './engine.js';

registerProcessor('demixr', class extends AudioWorkletProcessor {
  constructor() {
    super();
    this.engine = new Engine(sampleRate, (report) => this.port.postMessage(report));
    this.port.onmessage = ({data}) => {
      if (data.name === 'useStretch') {
        globalThis.SignalsmithStretch().then((module) => { this.engine.useStretch(module); this.port.postMessage({stretch: true}); });
      } else this.engine[data.name](data);
    };
    this.spare = new Float32Array(QUANTUM);
  }

  process(_, [output]) {
    this.engine.render(output[0], output[1] ?? this.spare);
    return true;
  }
});
