const WORDS = {
  en: {
    other: "中文", model: "Model", try: "Try the model", ask: "Ask", asking: "Asking…", choose: "Choose a file",
    record: "Record", stop: "Stop", no_microphone: "The microphone is only open to pages on this machine or over https.",
    text_hint: "Type a sentence…", image_hint: "Drop a picture here", audio_hint: "Drop a .wav here, or record one",
    tensor_hint: "The model takes numbers: edit the request. Empty data are sent as zeros.", no_models: "No model is loaded yet.",
    in_scope: "in scope", out_of_scope: "Out of scope", took: "{0} there and back", live: "Live",
    yours: "Your requests, p50", server_p50: "All since the start, p50", load: "Requests a second", memory: "Memory",
    chart_latency: "Your last requests, milliseconds", chart_load: "Requests a second, last two minutes",
    chart_says: "From {0} to {1}, last {2}", chart_top: "up to {0}", chart_empty: "Nothing yet", about: "Model card",
    name: "Name", version: "Version", precision: "Arithmetic", size: "Size", inputs: "Takes", outputs: "Gives",
    threshold: "Out of scope below", backend: "Runs on", xnnpack: "XNNPACK ops", golden: "Golden samples",
    created_by: "Made by", signed_by: "Signed by key", sha256: "SHA-256", labels: "{0} labels", of: "{0} of {1}",
    up: "serving", down: "not reachable", locked: "asks for a token", no_answer: "The server does not answer.", private: "What you ask goes to this server and nowhere else.",
    token_title: "Access token", token_hint: "This server asks for a token. It is kept until you close this tab.", token_send: "Continue",
    token_refused: "This token is not accepted.",
  },
  zh: {
    other: "English", model: "模型", try: "试一试", ask: "提问", asking: "请稍候…", choose: "选择文件",
    record: "录音", stop: "停止", no_microphone: "只有本机页面或 https 页面可以使用麦克风。",
    text_hint: "输入一句话…", image_hint: "把图片拖到这里", audio_hint: "把 .wav 拖到这里,或者录音",
    tensor_hint: "该模型接收数值:请编辑请求。data 为空时发送全零。", no_models: "尚未加载模型。",
    in_scope: "范围内", out_of_scope: "超出范围", took: "往返 {0}", live: "实时",
    yours: "您的请求 p50", server_p50: "启动以来全部 p50", load: "每秒请求数", memory: "内存",
    chart_latency: "您最近的请求(毫秒)", chart_load: "最近两分钟的每秒请求数",
    chart_says: "从 {0} 到 {1},最近 {2}", chart_top: "最高 {0}", chart_empty: "暂无数据", about: "模型卡片",
    name: "名称", version: "版本", precision: "运算", size: "大小", inputs: "输入", outputs: "输出",
    threshold: "超出范围阈值", backend: "运行于", xnnpack: "XNNPACK 算子", golden: "黄金样本",
    created_by: "生成工具", signed_by: "签名密钥", sha256: "SHA-256", labels: "{0} 个标签", of: "{0} / {1}",
    up: "运行中", down: "无法连接", locked: "需要令牌", no_answer: "服务器没有应答。", private: "您提交的内容只会发送到本服务器。",
    token_title: "访问令牌", token_hint: "此服务器需要令牌,关闭标签页后即失效。", token_send: "继续",
    token_refused: "该令牌无效。",
  },
};
let language = (navigator.languages || ["en"]).map((one) => one.slice(0, 2)).find((one) => one in WORDS) || "en";

const word = (key, ...values) => values.reduce((text, value, i) => text.replace(`{${i}}`, value), WORDS[language][key]);
const byId = (id) => document.getElementById(id);
const number = (value, digits = 0) =>
  new Intl.NumberFormat(language, { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);
const milliseconds = (ms) => `${number(ms, ms < 10 ? 2 : ms < 100 ? 1 : 0)} ms`;
const bytes = (count) => (count < 1e6 ? `${number(count / 1e3)} kB` : `${number(count / 1e6, 1)} MB`);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function speak() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const one of document.querySelectorAll("[data-word]")) one.textContent = word(one.dataset.word);
  byId("language").textContent = word("other");
  byId("language").lang = language === "zh" ? "en" : "zh-CN";
}
