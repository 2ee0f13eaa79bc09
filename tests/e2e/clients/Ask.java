import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.List;
import java.util.stream.Collectors;

/** Asks with the JDK's own client and its defaults: {@code java Ask.java URL BODY...}. Prints a line for each answer. */
public class Ask {
    public static void main(String[] given) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (String body : List.of(given).subList(1, given.length)) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(given[0]))
                .header("content-type", "application/json")
                .POST(BodyPublishers.ofString(body))
                .build();
            HttpResponse<java.util.stream.Stream<String>> answer = client.send(request, BodyHandlers.ofLines());
            String text = answer.body().collect(Collectors.joining(" "));
            System.out.println(answer.version() + " " + answer.statusCode() + " " + text);
        }
    }
}
