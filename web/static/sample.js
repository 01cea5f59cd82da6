// Generates the sample CSV file: large enough to watch its import, with some invalid rows.

const NAMES = [
  "Ada", "Barbara", "Claude", "Donald", "Edsger", "Frances", "Grace", "Hedy", "Joan", "Ken", "Lynn",
  "Margaret",
];
const CITIES = [
  "Lisbon", "Oslo", "Turin", "Ghent", "\"Newcastle, upon Tyne\"", "Graz", "Łódź", "Málaga",
];

const twoDigits = (number) => String(number).padStart(2, "0");

export function sample(rows = 200000) {
  const parts = ["id,name,city,email,signed_up,amount\n"];
  for (let i = 1; i <= rows; i += 1) {
    const name = NAMES[(i * 7) % NAMES.length];
    const city = CITIES[(i * 5) % CITIES.length];
    const date = `2026-${twoDigits((i % 12) + 1)}-${twoDigits((i % 28) + 1)}`;
    const email = `${name.toLowerCase()}${i}@example.org`;
    const line = `${i},${name},${city},${email},${date},${((i * 37) % 100000) / 100}`;
    if (i % 1501 === 0) parts.push(`${i},${name}\n`); // too short
    else if (i % 4001 === 0) parts.push(`${line},one too many\n`);
    else parts.push(`${line}\n`);
  }
  return new Blob(parts, { type: "text/csv" });
}
