// A CSV file that is big enough to watch its import and has something wrong with it now and then, made in the browser.

const NAMES = ["Ada", "Barbara", "Claude", "Donald", "Edsger", "Frances", "Grace", "Hedy", "Joan", "Ken", "Lynn", "Margaret"];
const CITIES = ["Lisbon", "Oslo", "Turin", "Ghent", "\"Newcastle, upon Tyne\"", "Graz", "Łódź", "Málaga"];

export function sample(rows = 200000) {
  const parts = ["id,name,city,email,signed_up,amount\n"];
  for (let i = 1; i <= rows; i += 1) {
    const name = NAMES[(i * 7) % NAMES.length];
    const line = `${i},${name},${CITIES[(i * 5) % CITIES.length]},${name.toLowerCase()}${i}@example.org,` +
      `2026-${String((i % 12) + 1).padStart(2, "0")}-${String((i % 28) + 1).padStart(2, "0")},${((i * 37) % 100000) / 100}`;
    if (i % 1501 === 0) parts.push(`${i},${name}\n`); // too short
    else if (i % 4001 === 0) parts.push(`${line},one too many\n`);
    else parts.push(`${line}\n`);
  }
  return new Blob(parts, { type: "text/csv" });
}
